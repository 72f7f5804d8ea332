package main

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/millrace/millrace/pkg/servertest"
)

// stopBound is what a stop may take with whatever is in flight: what orchestrators give a process before they kill it.
const stopBound = 30 * time.Second

// silent listens, and takes all that comes without ever answering.
func silent(t *testing.T) string {
	t.Helper()
	l, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() { _, _ = io.Copy(io.Discard, c) }()
		}
	}()
	return l.Addr().String()
}

// rows counts those of the lake, and how many Kafka records they are of.
func (s *site) rows(t *testing.T) string {
	t.Helper()
	out, errs, code := millrace(t, "", "sql", "--config", s.file, "--format", "csv",
		"select count(*) as n, count(distinct (_topic_partition, _offset)) as records from log")
	if code != exitOK {
		t.Fatalf("sql: exit code %d, %s%s", code, out, errs)
	}
	return strings.ReplaceAll(strings.TrimPrefix(out, "n,records\n"), "\n", "")
}

// inFlight is a process that holds records in all of its destinations.
type inFlight struct {
	*site

	p       *process
	noKafka bool // when it stops
}

const sentInFlight = 200

func newInFlight(t *testing.T, noKafka bool, cassandra, elasticsearch string) *inFlight {
	t.Helper()
	s := &inFlight{site: newSite(t, cassandra, elasticsearch), noKafka: noKafka}
	s.p = s.run(t, "cassandra", "elasticsearch", "lake", "gateway")
	publish(t, s.p, "log", strings.Repeat(`{"severity":"INFO","body":"in flight","service":"stop"}`+"\n", sentInFlight))
	eventually(t, "all is in flight", func() error {
		for _, consumer := range []string{"cassandra", "elasticsearch", "lake"} {
			if n := s.p.metric(t, "millrace_stream_fetched_offset", `consumer="`+consumer+`"`, `topic="millrace.log"`); n != sentInFlight {
				return fmt.Errorf("%s has fetched %v", consumer, n)
			}
		}
		if s.p.metric(t, "millrace_lake_held_bytes", `table="log"`) == 0 {
			return errors.New("the lake holds nothing")
		}
		return nil
	})
	return s
}

// TestStopWithEverythingInFlight stops processes whose destinations do not answer or are not there, one of which has lost
// Kafka, too, while the lake holds rows: it is over in time, with exit code 0, and the lake has each record once and
// reads none again.
//
// It needs no servers; it is among those that do since it takes half a minute.
func TestStopWithEverythingInFlight(t *testing.T) {
	t.Parallel()
	if _, ok := servertest.Require(t); !ok {
		return
	}
	const down = "127.0.0.1:1"
	both := []*inFlight{newInFlight(t, false, silent(t), down), newInFlight(t, true, down, silent(t))}
	begun := time.Now()
	for _, s := range both { // side by side, since there is nothing to do but to wait
		if s.noKafka {
			s.stopBroker(t)
		}
		if err := s.p.cmd.Process.Signal(os.Interrupt); err != nil {
			t.Fatal(err)
		}
	}
	for _, s := range both {
		s.p.wait(t)
		took := s.p.ended.Sub(begun)
		t.Logf("without Kafka: %t; the stop took %v", s.noKafka, took.Round(100*time.Millisecond))
		if took > stopBound {
			t.Errorf("without Kafka: %t; the stop took %v, want at most %v", s.noKafka, took, stopBound)
		}
		s.checkLake(t)
	}
}

// checkLake holds the lake against what was sent, after the stop and after a restart.
func (s *inFlight) checkLake(t *testing.T) {
	t.Helper()
	// Without Kafka a process may find that it lost its partitions, and then it lets go of what it holds.
	if got, want := s.rows(t), fmt.Sprintf("%d,%d", sentInFlight, sentInFlight); got != want && !s.noKafka {
		t.Errorf("the lake has %s rows and records after the stop, want %s", got, want)
	}
	if s.noKafka {
		s.startBroker(t)
	}
	s.cfg.Lake.Age = time.Second
	s.write(t)
	p := s.run(t, "lake", "gateway")
	publish(t, p, "log", `{"severity":"INFO","body":"one more","service":"stop"}`)
	eventually(t, "the one more is in the lake", func() error {
		if n := p.metric(t, "millrace_stream_applied_offset", `consumer="lake"`, `topic="millrace.log"`); n != sentInFlight+1 {
			return fmt.Errorf("the lake has applied %v", n)
		}
		return nil
	})
	if n := p.metric(t, "millrace_stream_applied_records_total", `consumer="lake"`, `topic="millrace.log"`); n != 1 && !s.noKafka {
		t.Errorf("%v records were applied after the restart, want the one more: others were read again", n)
	}
	p.stop(t)
	if got, want := s.rows(t), fmt.Sprintf("%d,%d", sentInFlight+1, sentInFlight+1); got != want {
		t.Errorf("the lake has %s rows and records after the restart, want %s", got, want)
	}
}
