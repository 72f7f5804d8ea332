package logtail

import (
	"errors"
	"fmt"

	"github.com/prometheus/client_golang/prometheus"
)

type metrics struct {
	bytes, published, refused, retries        prometheus.Counter
	invalid, cut, partial, binary             prometheus.Counter
	replaced, lost, journalErrors, readErrors prometheus.Counter
	files, open, unacked, behind              prometheus.Gauge
}

func newMetrics(reg prometheus.Registerer) (*metrics, error) {
	var errs []error
	counter := func(name, help string) prometheus.Counter {
		c := prometheus.NewCounter(prometheus.CounterOpts{Name: "millrace_logtail_" + name, Help: help})
		if err := reg.Register(c); err != nil {
			errs = append(errs, fmt.Errorf("registering metric: %w", err))
		}
		return c
	}
	gauge := func(name, help string) prometheus.Gauge {
		g := prometheus.NewGauge(prometheus.GaugeOpts{Name: "millrace_logtail_" + name, Help: help})
		if err := reg.Register(g); err != nil {
			errs = append(errs, fmt.Errorf("registering metric: %w", err))
		}
		return g
	}
	m := &metrics{
		bytes:         counter("read_bytes_total", "Bytes read from log files, those read again after a restart too."),
		published:     counter("events_published_total", "Events that Kafka acknowledged."),
		refused:       counter("events_refused_total", "Events that can never be published."),
		retries:       counter("publish_retries_total", "Attempts to publish that had to be made again."),
		invalid:       counter("invalid_bytes_total", "Bytes that are not UTF-8, replaced by U+FFFD."),
		cut:           counter("events_cut_total", "Events that end at the bound on their length."),
		partial:       counter("events_partial_total", "Events from a last line whose end did not come."),
		binary:        counter("files_binary_total", "Files that were skipped because they are not text."),
		replaced:      counter("files_replaced_total", "Files that were truncated or written anew."),
		lost:          counter("lost_bytes_total", "Bytes that were read and vanished before Kafka acknowledged them."),
		journalErrors: counter("journal_errors_total", "Errors in writing the journal; reading waits meanwhile."),
		readErrors:    counter("read_errors_total", "Errors in opening and reading files."),
		files:         gauge("files", "Files that are followed."),
		open:          gauge("open_files", "Files that are open."),
		unacked:       gauge("unacked_bytes", "Bytes of events that Kafka has not acknowledged."),
		behind:        gauge("unread_bytes", "Bytes of followed files that are not read yet."),
	}
	return m, errors.Join(errs...)
}
