package stream

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/bits"
	"math/rand/v2"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/millrace/millrace/pkg/codec"
	"github.com/millrace/millrace/pkg/kafka"
	"github.com/millrace/millrace/pkg/schema"
	"github.com/millrace/millrace/pkg/servertest"
	"github.com/millrace/millrace/pkg/telemetry"
)

const (
	asConsumers = "MILLRACE_TEST_AS_CONSUMERS" // makes this test binary a process of three consumers: brokers and type
	waiting     = 2_000_000
	waitingIn   = 6 // partitions
	maxResident = 512 << 20
)

func TestMain(m *testing.M) {
	if spec := os.Getenv(asConsumers); spec != "" {
		if err := consumers(spec, os.Stdin, os.Stdout); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1) //nolint:forbidigo // the end of a process
		}
		return
	}
	os.Exit(m.Run()) //nolint:forbidigo // the test binary's own end
}

// Two million records wait for three destinations that are down. The process that reads for all three holds what its
// budget says and stays under 512 MiB, and when they are up again each has all records.
func TestMemoryWhileDestinationsAreDown(t *testing.T) {
	servers, ok := servertest.Require(t)
	if !ok {
		return
	}
	name := "memory" + strconv.FormatInt(time.Now().UnixNano(), 36)
	typ := &schema.Type{Name: name}
	produceLogs(t, servers.Kafka, typ)

	cmd := exec.CommandContext(t.Context(), os.Args[0])
	cmd.Env = append(os.Environ(), asConsumers+"="+strings.Join(servers.Kafka, ",")+" "+name, "GOMEMLIMIT=", "GOGC=")
	cmd.Stderr = t.Output()
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	reports := make(chan report)
	go func() {
		defer close(reports)
		for lines := json.NewDecoder(stdout); ; {
			var r report
			if lines.Decode(&r) != nil {
				return
			}
			reports <- r
		}
	}()
	next := func(what string, ok func(report) bool) {
		t.Helper()
		deadline := time.After(3 * time.Minute)
		for {
			select {
			case r, more := <-reports:
				if !more {
					t.Fatalf("the consumers ended before %s", what)
				}
				if ok(r) {
					return
				}
			case <-deadline:
				t.Fatalf("in three minutes it was not seen that %s", what)
			}
		}
	}
	show := func(when string) {
		peak, now := resident(t, cmd.Process.Pid)
		t.Logf("%s: %d MiB resident, %d MiB at most so far", when, now>>20, peak>>20)
		if peak > maxResident {
			t.Errorf("%s: %d MiB were resident, want under %d", when, peak>>20, maxResident>>20)
		}
	}
	next("all partitions are paused", func(r report) bool { return r.Paused == 3*waitingIn })
	show("when all partitions are paused")
	held, seconds := 0, 0
	next("ten seconds pass", func(r report) bool { held, seconds = r.Held, seconds+1; return seconds == 10 })
	show(fmt.Sprintf("ten seconds later, %d MiB of records held", held>>20))
	if _, err := io.WriteString(stdin, "\n"); err != nil {
		t.Fatal(err)
	}
	begun := time.Now()
	next("all is stored", func(r report) bool {
		if r.Doubles > 0 {
			t.Errorf("%d records came twice", r.Doubles)
		}
		return r.Stored == 3*waiting
	})
	show(fmt.Sprintf("when all was stored, %v after the destinations came back", time.Since(begun).Round(time.Second)))
	_ = stdin.Close()
	for range reports {
	}
	if err := cmd.Wait(); err != nil {
		t.Error(err)
	}
}

// produceLogs writes lines as programs log them.
func produceLogs(t *testing.T, brokers []string, typ *schema.Type) {
	t.Helper()
	conf := kafka.Default()
	conf.Brokers = brokers
	opts, err := conf.Opts(telemetry.Discard())
	if err != nil {
		t.Fatal(err)
	}
	opts = append(opts, conf.ProducerOpts()...)
	cl, err := kgo.NewClient(append(opts, kgo.RecordPartitioner(kgo.ManualPartitioner()))...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(cl.Close)
	adm := kadm.NewClient(cl)
	if _, err := adm.CreateTopic(t.Context(), waitingIn, 1, nil, typ.TopicName()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
		defer cancel()
		_, err := adm.DeleteTopics(ctx, typ.TopicName())
		_, err2 := adm.DeleteGroups(ctx, Group(typ.Name+"0"), Group(typ.Name+"1"), Group(typ.Name+"2"))
		if err := errors.Join(err, err2); err != nil {
			t.Logf("cleaning up: %v", err)
		}
	})
	var failed atomic.Pointer[error]
	random := rand.New(rand.NewPCG(1, 2))
	for i := range waiting {
		line := fmt.Appendf(nil, `{"id":"%016x","host":"web-%d","level":"info","msg":"GET /api/v1/things/%d took %dms","trace":"%032x"}`,
			random.Uint64(), random.IntN(200), random.IntN(1e6), random.IntN(3000), random.Uint64())
		if i%20 == 0 {
			line = append(line, strings.Repeat(" at com.example.Thing.run(Thing.java:42)", random.IntN(40))...)
		}
		cl.Produce(t.Context(), &kgo.Record{Topic: typ.TopicName(), Partition: int32(i % waitingIn), Value: line}, func(_ *kgo.Record, err error) {
			if err != nil {
				failed.CompareAndSwap(nil, &err)
			}
		})
	}
	if err := cl.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := failed.Load(); err != nil {
		t.Fatal(*err)
	}
}

// resident gives the most that was ever resident of a process, and what is now.
func resident(t *testing.T, pid int) (peak, now int) {
	t.Helper()
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(status)) {
		if name, rest, ok := strings.Cut(line, ":"); ok && (name == "VmHWM" || name == "VmRSS") {
			kib, err := strconv.Atoi(strings.TrimSuffix(strings.TrimSpace(rest), " kB"))
			if err != nil {
				t.Fatal(err)
			}
			if name == "VmHWM" {
				peak = kib << 10
			} else {
				now = kib << 10
			}
		}
	}
	return peak, now
}

// report is what the process says of itself each second.
type report struct{ Held, Paused, Stored, Doubles int }

// consumers is the process: three consumers with the defaults, whose destinations are down until a line comes.
func consumers(spec string, in io.Reader, out io.Writer) error {
	brokers, name, _ := strings.Cut(spec, " ")
	conf := kafka.Default()
	conf.Brokers = strings.Split(brokers, ",")
	cfg := Default()
	typ := &schema.Type{Name: name, Fields: make([]schema.Field, 12)}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	var up atomic.Bool
	go func() {
		lines := bufio.NewReader(in)
		_, _ = lines.ReadString('\n')
		up.Store(true)
		_, _ = lines.ReadString('\n')
		cancel()
	}()
	budget := NewBudget(cfg.Memory)
	var all []*Consumer
	var sinks []*countSink
	var errs [3]error
	var running sync.WaitGroup
	for i := range errs {
		tel := telemetry.Set{Log: slog.New(slog.DiscardHandler), Metrics: prometheus.NewRegistry()}
		opts, err := conf.Opts(tel)
		if err != nil {
			return err
		}
		sink := &countSink{up: &up}
		c, err := New(cfg, name+strconv.Itoa(i), sink, Deps{
			Kafka: opts, Types: []*schema.Type{typ}, Telemetry: tel, Budget: budget,
			Decoder: func(string) Decoder { return wideDecoder{typ} },
		})
		if err != nil {
			return err
		}
		all, sinks = append(all, c), append(sinks, sink)
		running.Go(func() { errs[i] = c.Run(ctx) })
	}
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for ctx.Err() == nil {
		select {
		case <-ctx.Done():
		case <-tick.C:
		}
		var r report
		for i, c := range all {
			held, paused := budget.held(c)
			stored, doubles := sinks[i].count()
			r = report{r.Held + held, r.Paused + paused, r.Stored + stored, r.Doubles + doubles}
		}
		if err := json.NewEncoder(out).Encode(r); err != nil {
			return err
		}
	}
	running.Wait()
	return errors.Join(errs[:]...)
}

// wideDecoder makes as many values of a record as the type log has.
type wideDecoder struct{ typ *schema.Type }

func (d wideDecoder) Decode(_ context.Context, r *kgo.Record) (codec.Record, error) {
	values := make([]codec.Value, len(d.typ.Fields))
	values[0], values[1] = codec.BytesValue(r.Value), codec.LongValue(r.Timestamp.UnixMicro())
	return codec.Record{Source: r, Type: d.typ, Values: values}, nil
}

// countSink notes offsets.
type countSink struct {
	up *atomic.Bool

	mu      sync.Mutex
	seen    [waitingIn][waiting/waitingIn/64 + 1]uint64
	doubles int
}

func (s *countSink) Write(_ context.Context, b Batch, done func(error)) error {
	if !s.up.Load() {
		return errors.New("down")
	}
	s.mu.Lock()
	for i := range b.Records {
		at := b.Records[i].Source.Offset
		word, bit := &s.seen[b.Partition][at/64], uint64(1)<<(at%64)
		if *word&bit != 0 {
			s.doubles++
		}
		*word |= bit
	}
	s.mu.Unlock()
	done(nil)
	return nil
}

func (s *countSink) count() (stored, doubles int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for p := range s.seen {
		for _, word := range s.seen[p] {
			stored += bits.OnesCount64(word)
		}
	}
	return stored, s.doubles
}
