package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"text/tabwriter"
	"time"
)

// result is what one row says of itself.
type result struct {
	Seconds       float64 `json:"seconds"`
	PerSecond     float64 `json:"records_per_second"`
	CPUPerMillion float64 `json:"cpu_seconds_per_million"`
	PeakBytes     int64   `json:"peak_resident_bytes"`
	DiskBytes     int64   `json:"disk_bytes,omitempty"` // of the files written
}

// summary is a row of the report: the median of each figure.
type summary struct {
	Name string `json:"name"`
	Row  string `json:"row"`
	result
	OfCeiling *float64 `json:"of_ceiling,omitempty"` // records/s
	Bare      *ratio   `json:"of_bare,omitempty"`
	Rounds    []result `json:"rounds"`
}

// ratio is a row against its bare row: the median of the rounds' own ratios, since a round's rows meet the same machine.
type ratio struct {
	Row        string  `json:"row"`
	Throughput float64 `json:"records_per_second"`
	CPU        float64 `json:"cpu_seconds_per_million"`
}

// report is what is written as JSON.
type report struct {
	Time        time.Time `json:"time"`
	Go          string    `json:"go"`
	CPUs        int       `json:"cpus"`
	Records     int       `json:"records"`
	RecordBytes int       `json:"record_bytes"` // on the wire, uncompressed
	Rounds      int       `json:"rounds"`
	Rows        []summary `json:"rows"`
}

func perSecond(r result) float64     { return r.PerSecond }
func cpuPerMillion(r result) float64 { return r.CPUPerMillion }

func summarize(r row, measured map[string][]result) summary {
	mine := measured[r.name]
	s := summary{Name: r.name, Row: r.title, Rounds: mine, result: result{
		Seconds:       median(mine, func(r result) float64 { return r.Seconds }),
		PerSecond:     median(mine, perSecond),
		CPUPerMillion: median(mine, cpuPerMillion),
		PeakBytes:     int64(median(mine, func(r result) float64 { return float64(r.PeakBytes) })),
		DiskBytes:     int64(median(mine, func(r result) float64 { return float64(r.DiskBytes) })),
	}}
	if top := measured[ceiling]; top != nil {
		of := s.PerSecond / median(top, perSecond)
		s.OfCeiling = &of
	}
	if bare := measured[r.bare]; bare != nil {
		s.Bare = &ratio{Row: r.bare, Throughput: medianRatio(mine, bare, perSecond), CPU: medianRatio(mine, bare, cpuPerMillion)}
	}
	return s
}

// median gives the middle one, of an even number the mean of the middle two.
func median(rs []result, of func(result) float64) float64 {
	xs := make([]float64, len(rs))
	for i, r := range rs {
		xs[i] = of(r)
	}
	slices.Sort(xs)
	return (xs[(len(xs)-1)/2] + xs[len(xs)/2]) / 2
}

func medianRatio(a, b []result, of func(result) float64) float64 {
	i := 0
	return median(a, func(r result) float64 { i++; return of(r) / of(b[i-1]) })
}

func show(stdout io.Writer, path string, rep report) error {
	w := tabwriter.NewWriter(stdout, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(w, "row\trecords/s\tof the ceiling\tof the bare loop\tCPU-s per million\tof the bare loop\tpeak MiB\tdisk MiB\t")
	for _, r := range rep.Rows {
		of, throughput, cpu := "", "", ""
		if r.OfCeiling != nil {
			of = fmt.Sprintf("%.0f %%", 100**r.OfCeiling)
		}
		if r.Bare != nil {
			throughput, cpu = fmt.Sprintf("%.2f", r.Bare.Throughput), fmt.Sprintf("%.2f", r.Bare.CPU)
		}
		disk := ""
		if r.DiskBytes > 0 {
			disk = strconv.FormatInt(r.DiskBytes>>20, 10)
		}
		fmt.Fprintf(w, "%s\t%.0f\t%s\t%s\t%.2f\t%s\t%d\t%s\t\n", r.Row, r.PerSecond, of, throughput, r.CPUPerMillion, cpu, r.PeakBytes>>20, disk)
	}
	if err := w.Flush(); err != nil {
		return err
	}
	fmt.Fprintf(stdout, "%d records of %d bytes, 6 partitions, medians of %d rounds, %d CPUs shared with the servers\n",
		rep.Records, rep.RecordBytes, rep.Rounds, rep.CPUs)
	if path == "" {
		return nil
	}
	return writeJSON(path, rep)
}

func writeJSON(path string, results any) error {
	data, err := json.MarshalIndent(results, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(path, append(data, '\n'), 0o644) //nolint:gosec // results are for everybody
}
