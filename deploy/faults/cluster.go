package main

import (
	"bytes"
	"context"
	_ "embed"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"text/template"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// cluster is Kafka: three processes, each a broker and a controller.
type cluster struct {
	brokers []*broker
}

type broker struct {
	ID         int32  `json:"id"`
	Port       int    `json:"port"`
	Controller int    `json:"controller"`
	Pid        int    `json:"pid"`
	dir        string // of all
	java, jars string
}

//go:embed server.properties
var brokerProperties string

const (
	brokerCount = 3
	brokerHeap  = "320m"
)

// openCluster reads where an earlier run's cluster is, or lays out a new one. It starts nothing.
func openCluster(ctx context.Context, dir string, fresh bool) (*cluster, error) {
	java, err := printed(ctx, "java")
	if err != nil {
		return nil, err
	}
	home, err := printed(ctx, "home", "kafka")
	if err != nil {
		return nil, err
	}
	c := &cluster{}
	for id := int32(1); id <= brokerCount; id++ {
		c.brokers = append(c.brokers, &broker{ID: id, dir: dir, java: java, jars: filepath.Join(home, "lib", "*")})
	}
	if err := c.read(); err == nil && fresh {
		for _, b := range c.brokers { // of a run that was killed
			if err := b.kill(ctx); err != nil {
				return nil, err
			}
		}
	} else if !fresh {
		return c, err
	}
	if err := os.RemoveAll(dir); err != nil {
		return nil, err
	}
	return c, c.layOut(ctx)
}

func printed(ctx context.Context, args ...string) (string, error) {
	var out bytes.Buffer
	err := (&servers{dir: os.TempDir()}).script(ctx, &out, "", args...)
	return strings.TrimSpace(out.String()), err
}

func (c *cluster) read() error {
	for _, b := range c.brokers {
		data, err := os.ReadFile(b.file("broker.json"))
		if err == nil {
			err = json.Unmarshal(data, b)
		}
		if err != nil {
			return fmt.Errorf("reading what an earlier run says of its brokers: %w", err)
		}
	}
	return nil
}

func (b *broker) write() error {
	data, err := json.Marshal(b)
	if err != nil {
		return err
	}
	return os.WriteFile(b.file("broker.json"), data, 0o600)
}

func (b *broker) file(name string) string { return filepath.Join(b.dir, strconv.Itoa(int(b.ID)), name) }

func (b *broker) address() string { return "127.0.0.1:" + strconv.Itoa(b.Port) }

func (b *broker) String() string { return "broker " + strconv.Itoa(int(b.ID)) }

func (c *cluster) addresses() []string {
	var out []string
	for _, b := range c.brokers {
		out = append(out, b.address())
	}
	return out
}

// layOut chooses ports and formats the brokers' storage.
func (c *cluster) layOut(ctx context.Context) error {
	var voters []string
	for _, b := range c.brokers {
		var err error
		if b.Port, err = freePort(ctx); err == nil {
			b.Controller, err = freePort(ctx)
		}
		if err != nil {
			return err
		}
		voters = append(voters, fmt.Sprintf("%d@127.0.0.1:%d", b.ID, b.Controller))
	}
	properties := template.Must(template.New("properties").Parse(brokerProperties))
	for _, b := range c.brokers {
		if err := os.MkdirAll(b.file("log"), 0o700); err != nil {
			return err
		}
		var text bytes.Buffer
		err := properties.Execute(&text, map[string]any{
			"ID": b.ID, "Port": b.Port, "Controller": b.Controller, "Voters": strings.Join(voters, ","), "Log": b.file("log"),
		})
		if err == nil {
			err = os.WriteFile(b.file("server.properties"), text.Bytes(), 0o600)
		}
		if err != nil {
			return err
		}
		cmd := exec.CommandContext(ctx, b.java, "-XX:TieredStopAtLevel=1", "-cp", b.jars, "kafka.tools.StorageTool", //nolint:gosec // ours
			"format", "-t", "AmillraceFaultsCluster", "-c", b.file("server.properties"))
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("formatting the storage of %s: %w\n%s", b, err, out)
		}
		if err := b.write(); err != nil {
			return err
		}
	}
	return nil
}

func freePort(ctx context.Context) (int, error) {
	l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return 0, err
	}
	return l.Addr().(*net.TCPAddr).Port, l.Close() //nolint:forcetypeassert // of tcp
}

func (b *broker) mark() string { return "-Dmillrace.faults=" + b.file("") }

func (b *broker) running() bool { return b.Pid != 0 && alive(b.Pid, b.mark()) }

// start starts the broker where it does not run. It does not wait for it.
func (b *broker) start() error {
	if b.running() {
		return nil
	}
	log, err := os.OpenFile(b.file("broker.log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer log.Close()
	config, err := filepath.Abs("deploy/local/log4j2.properties")
	if err != nil {
		return err
	}
	cmd := exec.Command(b.java, b.mark(), "-Xms96m", "-Xmx"+brokerHeap, "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", //nolint:gosec,noctx // it outlives every context
		"-Dlog4j2.configurationFile="+config, "-cp", b.jars, "kafka.Kafka", b.file("server.properties"))
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = detached(b.gid())
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("starting %s: %w", b, err)
	}
	go func() { _ = cmd.Wait() }() // how it ends is seen by who ends it
	b.Pid = cmd.Process.Pid
	return b.write()
}

// gid is a group of the broker's own, by which the packets that it sends are told from those of others.
func (b *broker) gid() uint32 { return 60000 + uint32(b.ID) } //nolint:gosec // of three

// isolate drops every packet from and to the broker, and leaves its sockets open: it looks like a machine that hangs.
func (b *broker) isolate(ctx context.Context) error {
	if os.Geteuid() != 0 || !ownGroups() {
		return errors.New("dropping a broker's packets wants root, which can give the broker a group of its own")
	}
	rules := [][]string{{"-A", "OUTPUT", "-m", "owner", "--gid-owner", strconv.Itoa(int(b.gid())), "-j", "DROP"}}
	for _, port := range []int{b.Port, b.Controller} {
		rules = append(rules, []string{"-A", "INPUT", "-p", "tcp", "--dport", strconv.Itoa(port), "-j", "DROP"})
	}
	for _, r := range rules {
		if err := iptables(ctx, r...); err != nil {
			return err
		}
	}
	return nil
}

// mend lets all packets pass again.
func (c *cluster) mend(ctx context.Context) error {
	return errors.Join(iptables(ctx, "-F", "OUTPUT"), iptables(ctx, "-F", "INPUT"))
}

func iptables(ctx context.Context, args ...string) error {
	if out, err := exec.CommandContext(ctx, "iptables", args...).CombinedOutput(); err != nil { //nolint:gosec // see the callers
		return fmt.Errorf("iptables %s: %w\n%s", strings.Join(args, " "), err, out)
	}
	return nil
}

// kill is kill -9, and waits until nothing of the broker runs.
func (b *broker) kill(ctx context.Context) error {
	if !b.running() {
		return nil
	}
	if err := b.signal(syscall.SIGKILL); err != nil {
		return err
	}
	return until(ctx, 30*time.Second, "the end of "+b.String(), func(context.Context) error {
		if b.running() {
			return errors.New("it runs")
		}
		return nil
	})
}

// signal sends SIGSTOP, SIGCONT and the like.
func (b *broker) signal(sig syscall.Signal) error {
	if !b.running() {
		return fmt.Errorf("%s does not run: its log is %s", b, b.file("broker.log"))
	}
	if err := syscall.Kill(b.Pid, sig); err != nil {
		return fmt.Errorf("sending %v to %s: %w", sig, b, err)
	}
	return nil
}

// broker gives the one of this id.
func (c *cluster) broker(id int32) *broker { return c.brokers[id-1] }

// heal starts what does not run, lets go on what is frozen, waits until every partition has all its replicas in sync and
// every group's coordinator answers, and gives leadership back to the preferred replicas.
func (c *cluster) heal(ctx context.Context, adm *kadm.Client) error {
	if err := c.mend(ctx); err != nil {
		return err
	}
	for _, b := range c.brokers {
		if err := b.start(); err != nil {
			return err
		}
		if err := b.signal(syscall.SIGCONT); err != nil {
			return err
		}
	}
	err := until(ctx, 2*time.Minute, "a healthy Kafka", func(ctx context.Context) error { return c.healthy(ctx, adm) })
	if err != nil {
		return err
	}
	_, err = adm.ElectLeaders(ctx, kadm.ElectPreferredReplica, nil)
	if err != nil {
		return fmt.Errorf("electing the preferred leaders: %w", err)
	}
	return nil
}

func (c *cluster) healthy(ctx context.Context, adm *kadm.Client) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	for _, b := range c.brokers {
		if !b.running() {
			return &finalError{fmt.Errorf("%s has ended: its log is %s", b, b.file("broker.log"))}
		}
	}
	for _, name := range destinationNames {
		if err := adm.FindGroupCoordinators(ctx, group(name)).Error(); err != nil { // also makes the topic of commits
			return fmt.Errorf("finding a coordinator: %w", err)
		}
	}
	meta, err := adm.Metadata(ctx)
	if err != nil {
		return err
	}
	if len(meta.Brokers) != brokerCount {
		return fmt.Errorf("%d brokers of %d are in the cluster", len(meta.Brokers), brokerCount)
	}
	for _, t := range meta.Topics {
		if t.Err != nil {
			return fmt.Errorf("topic %s: %w", t.Topic, t.Err)
		}
		for _, p := range t.Partitions {
			if p.Err != nil || p.Leader < 0 || len(p.ISR) != len(p.Replicas) {
				return fmt.Errorf("partition %d of %s: leader %d, replicas %v, in sync %v: %w", p.Partition, t.Topic, p.Leader, p.Replicas, p.ISR, p.Err)
			}
		}
	}
	return nil
}

// partitions gives the state of a topic's partitions as a broker that answers has it.
func (w *world) partitions(ctx context.Context, topic string) (kadm.PartitionDetails, error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	meta, err := w.adm.Metadata(ctx, topic)
	if err != nil {
		return nil, fmt.Errorf("reading the metadata of %s: %w", topic, err)
	}
	t := meta.Topics[topic]
	if t.Err != nil {
		return nil, fmt.Errorf("reading the metadata of %s: %w", topic, t.Err)
	}
	return t.Partitions, nil
}

// leader gives the broker that leads a partition.
func (w *world) leader(ctx context.Context, topic string, partition int32) (*broker, error) {
	all, err := w.partitions(ctx, topic)
	if err != nil {
		return nil, err
	}
	p, ok := all[partition]
	if !ok || p.Leader < 1 {
		return nil, fmt.Errorf("partition %d of %s has no leader", partition, topic)
	}
	return w.cluster.broker(p.Leader), nil
}

// controller gives the node that leads the brokers' own log, and so decides who leads the others.
func (w *world) controller(ctx context.Context) (*broker, error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	req := kmsg.NewPtrDescribeQuorumRequest()
	topic := kmsg.NewDescribeQuorumRequestTopic()
	topic.Topic = "__cluster_metadata"
	topic.Partitions = append(topic.Partitions, kmsg.NewDescribeQuorumRequestTopicPartition())
	req.Topics = append(req.Topics, topic)
	resp, err := req.RequestWith(ctx, w.client)
	if err == nil {
		err = kerr.ErrorForCode(resp.ErrorCode)
	}
	if err != nil {
		return nil, fmt.Errorf("asking for the controller: %w", err)
	}
	if len(resp.Topics) != 1 || len(resp.Topics[0].Partitions) != 1 || resp.Topics[0].Partitions[0].LeaderID < 1 {
		return nil, errors.New("asking for the controller: there is none")
	}
	return w.cluster.broker(resp.Topics[0].Partitions[0].LeaderID), nil
}

// leads counts the partitions of a topic that a broker leads.
func leads(all kadm.PartitionDetails, b *broker) (n int64) {
	for _, p := range all {
		if p.Leader == b.ID {
			n++
		}
	}
	return n
}

// awaitFailover waits until a broker leads nothing of a topic and is in no set of replicas in sync, and gives how many
// of those sets have shrunk.
func (w *world) awaitFailover(ctx context.Context, topic string, gone *broker) (shrunk int64, err error) {
	err = until(ctx, time.Minute, "other leaders than "+gone.String(), func(ctx context.Context) error {
		all, err := w.partitions(ctx, topic)
		if err != nil {
			return err
		}
		shrunk = 0
		for _, p := range all {
			if p.Leader < 0 || p.Leader == gone.ID {
				return fmt.Errorf("partition %d has the leader %d", p.Partition, p.Leader)
			}
			if len(p.ISR) < len(p.Replicas) {
				shrunk++
			}
		}
		if shrunk == 0 {
			return errors.New("all replicas are said to be in sync")
		}
		return nil
	})
	return shrunk, err
}

// listed gives the offsets of all partitions of some topics. A partition whose leader moves meanwhile, as after a fault,
// is asked for again.
func listed(ctx context.Context, list func(context.Context, ...string) (kadm.ListedOffsets, error), topics ...string) (all kadm.ListedOffsets, err error) {
	err = until(ctx, time.Minute, "their leaders answer", func(ctx context.Context) error {
		if all, err = list(ctx, topics...); err != nil {
			return err
		}
		if err = all.Error(); errors.Is(err, kerr.UnknownTopicOrPartition) {
			return &finalError{err}
		}
		return err
	})
	return all, err
}

// readTopics gives every record of some topics, from the offsets where they begin, or from those given, to the end as it
// is now.
func readTopics(ctx context.Context, w *world, from kadm.ListedOffsets, fn func(*kgo.Record) error, topics ...string) error {
	ends, err := listed(ctx, w.adm.ListEndOffsets, topics...)
	if err != nil {
		return fmt.Errorf("listing the ends of %v: %w", topics, err)
	}
	if from == nil {
		if from, err = listed(ctx, w.adm.ListStartOffsets, topics...); err != nil {
			return fmt.Errorf("listing the starts of %v: %w", topics, err)
		}
	}
	type partition struct {
		topic  string
		number int32
	}
	left := map[partition]int64{}
	at := map[string]map[int32]kgo.Offset{}
	ends.Each(func(end kadm.ListedOffset) {
		start, _ := from.Lookup(end.Topic, end.Partition)
		if start.Offset >= end.Offset {
			return
		}
		if at[end.Topic] == nil {
			at[end.Topic] = map[int32]kgo.Offset{}
		}
		at[end.Topic][end.Partition] = kgo.NewOffset().At(start.Offset)
		left[partition{end.Topic, end.Partition}] = end.Offset
	})
	if len(left) == 0 {
		return nil
	}
	client, err := kgo.NewClient(kgo.SeedBrokers(w.cluster.addresses()...), kgo.ConsumePartitions(at),
		kgo.KeepControlRecords(), kgo.FetchMaxWait(100*time.Millisecond))
	if err != nil {
		return err
	}
	defer client.Close()
	for len(left) > 0 {
		fetches := client.PollFetches(ctx)
		if err := errors.Join(ctx.Err(), fetches.Err()); err != nil {
			return fmt.Errorf("reading %v: %w", topics, err)
		}
		for it := fetches.RecordIter(); !it.Done(); {
			r := it.Next()
			p := partition{r.Topic, r.Partition}
			if end, ok := left[p]; ok && r.Offset+1 >= end {
				delete(left, p)
			}
			if r.Attrs.IsControl() {
				continue
			}
			if err := fn(r); err != nil {
				return err
			}
		}
	}
	return nil
}
