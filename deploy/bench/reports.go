package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"text/tabwriter"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/millrace/millrace/deploy/reports"
	"github.com/millrace/millrace/pkg/codec"
	"github.com/millrace/millrace/pkg/lake"
	"github.com/millrace/millrace/pkg/lakesql"
	"github.com/millrace/millrace/pkg/schema"
	"github.com/millrace/millrace/pkg/telemetry"
)

// The reports' benchmark: tables of so many rows each, over three days that are over, in commits of a row group as a
// consumer makes them; the report from which bills are made over these small files, and then all reports over the merged
// ones. Each step is a process of its own, so that its memory can be told.
const (
	reportsRow = "reports"
	commitRows = 100_000
	reportDays = 3
)

// reportTypes are the types that the reports read.
var reportTypes = []string{"usage", "metric", "performance"}

// timed is one step, or one report's median.
type timed struct {
	Step      string  `json:"step"`
	Seconds   float64 `json:"seconds"`
	PeakBytes int64   `json:"peak_resident_bytes"`
	Files     int     `json:"files,omitempty"`
}

// measureReports runs the steps and prints what they took.
func measureReports(ctx context.Context, o options, stdout io.Writer) (err error) {
	folder, err := os.MkdirTemp("", "millrace-reports")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(folder)) }()
	self, err := os.Executable()
	if err != nil {
		return err
	}
	var all []timed
	for _, step := range []string{"fill", "usage", "merge", "all"} {
		fmt.Fprintf(os.Stderr, "bench: reports over %d rows: %s\n", o.count, step)
		cmd := exec.CommandContext(ctx, self, "-row", reportsRow+"/"+step, "-run", folder, "-count", strconv.Itoa(o.count), "-rounds", strconv.Itoa(o.rounds)) //nolint:gosec // itself
		cmd.Stderr = os.Stderr
		out, err := cmd.Output()
		if err != nil {
			return fmt.Errorf("reports, step %s: %w", step, err)
		}
		var took []timed
		if err := json.Unmarshal(out, &took); err != nil {
			return fmt.Errorf("reports, step %s: %w", step, err)
		}
		all = append(all, took...)
	}
	w := tabwriter.NewWriter(stdout, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(w, "step\tseconds\tpeak MiB\tfiles\t")
	for _, t := range all {
		fmt.Fprintf(w, "%s\t%.2f\t%d\t%d\t\n", t.Step, t.Seconds, t.PeakBytes>>20, t.Files)
	}
	fmt.Fprintf(w, "tables of %d rows each over %d days, medians of %d\n", o.count, reportDays, o.rounds)
	if err := w.Flush(); err != nil || o.out == "" {
		return err
	}
	return writeJSON(o.out, all)
}

// reportsLake is the lake of the benchmark.
type reportsLake struct {
	lake  *lake.Lake
	types []*schema.Type
	cfg   lake.Config
	first time.Time
}

func openReportsLake(folder string) (*reportsLake, error) {
	types, err := schema.Builtin()
	if err != nil {
		return nil, err
	}
	set, err := schema.NewSet(types...)
	if err != nil {
		return nil, err
	}
	r := &reportsLake{cfg: lake.Default(), first: time.Now().UTC().Truncate(24*time.Hour).AddDate(0, 0, -reportDays-1)}
	for _, name := range reportTypes {
		r.types = append(r.types, set.Get(name))
	}
	r.cfg.Warehouse = filepath.Join(folder, "lake")
	tel := telemetry.New(os.Stderr, "text", 4, prometheus.NewRegistry())
	r.lake, err = lake.New(r.cfg, tel)
	return r, err
}

// reportsStep runs one step and prints what it took as JSON.
func reportsStep(ctx context.Context, o options, step string, stdout io.Writer) error {
	r, err := openReportsLake(o.run)
	if err != nil {
		return err
	}
	begun := time.Now()
	var took []timed
	switch step {
	case "fill":
		err = r.fill(ctx, o.count)
		took = []timed{{Step: "writing", Seconds: time.Since(begun).Seconds()}}
	case "merge":
		err = r.merge(ctx)
		took = []timed{{Step: "merging", Seconds: time.Since(begun).Seconds()}}
	case "usage":
		took, err = r.report(ctx, o.rounds, " over small files", "usage")
	default:
		took, err = r.report(ctx, o.rounds, " over merged files", "usage", "capacity", "slowest", "errors")
	}
	if err != nil {
		return err
	}
	for i := range took {
		took[i].PeakBytes = peakBytes(usage())
	}
	return json.NewEncoder(stdout).Encode(took)
}

func (r *reportsLake) fill(ctx context.Context, count int) error {
	for _, typ := range r.types {
		if err := r.lake.Create(ctx, typ); err != nil {
			return err
		}
		table, err := r.lake.Open(ctx, typ)
		if err != nil {
			return err
		}
		records := make([]codec.Record, 0, commitRows)
		for n := 0; n < count; {
			records = records[:0]
			first := n
			for ; n < min(first+commitRows, count); n++ {
				records = append(records, r.record(typ, n, count))
			}
			if err := commitRecords(ctx, table, typ, records, int64(first)); err != nil {
				return err
			}
		}
	}
	return nil
}

func commitRecords(ctx context.Context, table *lake.Table, typ *schema.Type, records []codec.Record, first int64) error {
	w, err := table.NewWriter(ctx, lake.WriterConfig{Memory: 64 << 20, GroupRows: commitRows})
	if err != nil {
		return err
	}
	if err := w.Add(ctx, typ, records); err != nil {
		return err
	}
	files, err := w.Finish()
	if err != nil {
		return err
	}
	span := lake.Counts{First: first, Next: first + int64(len(records)), Rows: int64(len(records))}
	return table.Commit(ctx, &lake.Commit{
		Files: files, Sources: map[string]lake.Source{typ.Topic.Name: {Cluster: "bench", TopicID: "bench"}},
		Spans: map[lake.TopicPartition]lake.Counts{{Topic: typ.Topic.Name}: span},
	})
}

// record makes the n-th event of a type: as many tenants, hosts and operations as a company has.
func (r *reportsLake) record(typ *schema.Type, n, count int) codec.Record {
	at := r.first.Add(time.Duration(float64(n) / float64(count) * float64(reportDays*24*time.Hour)))
	host := "host-" + strconv.Itoa(n%200)
	set := map[string]codec.Value{
		"id": codec.StringValue(fmt.Sprintf("01930000-%04x-7%03x-8%03x-%012x", n>>16&0xffff, n&0xfff, n*7919&0xfff, n)), "time": codec.LongValue(at.UnixMicro()),
		"service": codec.StringValue("service-" + strconv.Itoa(n%20)), "host": codec.StringValue(host), "datacenter": codec.StringValue("dc1"),
		"tenant": codec.StringValue("tenant-" + strconv.Itoa(n%100)), "attributes": codec.MapValue(map[string]string{"region": "eu"}),
	}
	switch typ.Name {
	case "usage":
		set["resource"], set["unit"], set["quantity"] = codec.StringValue([]string{"storage", "requests", "egress"}[n%3]), codec.StringValue("By"), codec.LongValue(int64(n%1000))
	case "metric":
		names := []string{"system.cpu.utilization", "system.memory.utilization", "system.filesystem.utilization", "http.server.requests"}
		attributes := []map[string]string{{"cpu.mode": "user"}, {"system.memory.state": "used"}, {"system.filesystem.state": "used", "system.filesystem.mountpoint": "/"}, {"route": "/"}}
		set["name"], set["attributes"], set["value"] = codec.StringValue(names[n%4]), codec.MapValue(attributes[n%4]), codec.DoubleValue(float64(n%977)/1000)
	case "performance":
		set["operation"], set["duration_us"], set["ok"] = codec.StringValue("operation-"+strconv.Itoa(n%300)), codec.LongValue(int64(n*31%90_000)), codec.BoolValue(n%100 != 0)
		if n%100 == 0 {
			set["error"] = codec.StringValue("timeout")
		}
	}
	return codec.Record{Type: typ, Values: valuesOf(typ, set), Source: &kgo.Record{Topic: typ.Topic.Name, Offset: int64(n), Timestamp: at.Add(time.Second)}}
}

func (r *reportsLake) merge(ctx context.Context) error {
	for _, typ := range r.types {
		table, err := r.lake.Open(ctx, typ)
		if err != nil {
			return err
		}
		c := r.cfg.Compact
		if _, err := table.Compact(ctx, lake.Compaction{
			Target: int64(c.Target), Memory: int64(c.Memory), GroupRows: commitRows, After: c.After, Now: time.Now(),
		}); err != nil {
			return err
		}
	}
	return nil
}

// report gives the medians of some reports over all days.
func (r *reportsLake) report(ctx context.Context, rounds int, over string, names ...string) ([]timed, error) {
	var all []timed
	for _, name := range names {
		rep, err := reports.Get(name)
		if err != nil {
			return nil, err
		}
		runs := make([]result, rounds)
		var files int
		for i := range runs {
			begun := time.Now()
			db, err := lakesql.Open(ctx, lakesql.Default(), r.lake, r.types, lake.AsOf{})
			if err != nil {
				return nil, err
			}
			variables := map[string]any{"from": r.first, "to": r.first.AddDate(0, 0, reportDays), "tenant": nil}
			answer, err := db.Query(ctx, lakesql.Request{Statement: rep.SQL, Variables: variables}, io.Discard, lakesql.CSV)
			if err != nil {
				return nil, err
			}
			if answer.Rows == 0 {
				return nil, fmt.Errorf("the report %s has no rows", name)
			}
			files, runs[i].Seconds = answer.Reads[0].Files, time.Since(begun).Seconds()
		}
		all = append(all, timed{Step: name + over, Seconds: median(runs, func(r result) float64 { return r.Seconds }), Files: files})
	}
	return all, nil
}
