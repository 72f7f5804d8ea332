// Package status prints how far each destination is behind: a table that refreshes in place on a terminal, one line
// per interval elsewhere.
package status

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"
)

// Row is one destination's state of one topic.
type Row struct {
	Destination string
	Topic       string
	Produced    int64         // records in the topic: the sum of its end offsets
	Applied     int64         // the sum of the next offsets that the destination has not made durable
	Lag         time.Duration // age of the oldest record that is not applied; 0 when there is none
	LagKnown    bool          // false: records wait, and nobody knows since when
	State       string        // what is wrong, or ""
}

// LagRecords is how many records are produced and not applied. It can be negative, which is shown as it is.
func (r Row) LagRecords() int64 { return r.Produced - r.Applied }

// Table prints rows until its context ends.
type Table struct {
	Out   io.Writer
	Size  func() (width, height int) // of the terminal that Out is, which can change; nil where it is none
	Every time.Duration
	Now   func() time.Time
	Rows  func() []Row
	Lines func() []string // under the table, each time; nil is none
	Note  string          // a line under all, or ""
}

// window is over how long a rate is taken: a destination that commits now and then has one all the same.
const window = 30 * time.Second

// Run prints at once and then at every interval.
func (t *Table) Run(ctx context.Context) error {
	tick := time.NewTicker(t.Every)
	defer tick.Stop()
	p := printer{table: t, seen: map[string][]sample{}}
	for {
		if err := p.print(); err != nil {
			return fmt.Errorf("printing the status: %w", err)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

// printer remembers what was printed last, for the rates.
type printer struct {
	table *Table
	seen  map[string][]sample // by destination and topic, oldest first
	draw  Drawer
}

type sample struct {
	at      time.Time
	applied int64
}

func (p *printer) print() error {
	now := p.table.Now()
	rows := p.table.Rows()
	rates := make([]float64, len(rows))
	for i, r := range rows {
		rates[i] = p.rate(r, now)
	}
	var out string
	switch {
	case p.table.Size != nil:
		out = p.draw.Draw(p.full(now, rows, rates), p.table.Size)
	case len(rows) > 0:
		out = line(now, rows, rates)
	}
	_, err := io.WriteString(p.table.Out, out)
	return err
}

// rate gives records per second over the window, or over what there is of it.
func (p *printer) rate(r Row, now time.Time) float64 {
	key := r.Destination + "/" + r.Topic
	samples := p.seen[key]
	samples = append(samples, sample{now, r.Applied})
	for len(samples) > 2 && now.Sub(samples[1].at) >= window {
		samples = samples[1:]
	}
	p.seen[key] = samples
	elapsed := now.Sub(samples[0].at).Seconds()
	if elapsed <= 0 {
		return 0
	}
	return float64(r.Applied-samples[0].applied) / elapsed
}

// Drawer draws lines in place of those that it drew before.
type Drawer struct{ lines int }

// Draw gives what to write to the terminal. A line that is too long for it is cut, and so are lines that are too many: one
// that wrapped or scrolled could not be found again.
func (d *Drawer) Draw(lines []string, size func() (width, height int)) string {
	width, height := size()
	if height > 1 && len(lines) > height-1 {
		left := len(lines) - (height - 2)
		lines = append(lines[:height-2:height-2], fmt.Sprintf("(%d more lines: make the window higher)", left))
	}
	var b strings.Builder
	if d.lines > 0 {
		fmt.Fprintf(&b, "\x1b[%dA", d.lines)
	}
	for _, l := range lines {
		b.WriteString(cut(l, width) + "\x1b[K\n")
	}
	b.WriteString("\x1b[J")
	d.lines = len(lines)
	return b.String()
}

func (p *printer) full(now time.Time, rows []Row, rates []float64) []string {
	cells := [][]string{{"DESTINATION", "TOPIC", "PRODUCED", "APPLIED", "LAG", "LAG (s)", "REC/S", ""}}
	for i, r := range rows {
		cells = append(cells, []string{
			r.Destination, r.Topic, count(r.Produced), count(r.Applied), count(r.LagRecords()), r.seconds(), perSecond(rates[i]), r.State,
		})
	}
	lines := append([]string{now.Format("15:04:05")}, Align(cells, 0, 1, 7)...)
	if p.table.Lines != nil {
		lines = append(lines, p.table.Lines()...)
	}
	if p.table.Note != "" {
		lines = append(lines, p.table.Note)
	}
	return lines
}

// Align makes columns as wide as they need to be. Those that are named by number are text, the others numbers.
func Align(cells [][]string, text ...int) []string {
	widths := make([]int, len(cells[0]))
	for _, row := range cells {
		for i, c := range row {
			widths[i] = max(widths[i], utf8.RuneCountInString(c))
		}
	}
	lines := make([]string, len(cells))
	for n, row := range cells {
		var b strings.Builder
		for i, c := range row {
			pad := strings.Repeat(" ", widths[i]-utf8.RuneCountInString(c))
			if slices.Contains(text, i) {
				b.WriteString(c + pad + " ")
			} else {
				b.WriteString(pad + c + " ")
			}
		}
		lines[n] = strings.TrimRight(b.String(), " ")
	}
	return lines
}

// cut shortens a line to a number of columns. What colours it takes none.
func cut(s string, width int) string {
	if width <= 0 || utf8.RuneCountInString(s) <= width {
		return s
	}
	var b strings.Builder
	columns, escape := 0, false
	for _, r := range s {
		switch {
		case escape:
			escape = r != 'm'
		case r == '\x1b':
			escape = true
		default:
			if columns++; columns > width {
				continue
			}
		}
		b.WriteRune(r)
	}
	return b.String()
}

// line sums each destination up over its topics.
func line(now time.Time, rows []Row, rates []float64) string {
	var sums []Row
	var speeds []float64
	for i, r := range rows {
		at := slices.IndexFunc(sums, func(s Row) bool { return s.Destination == r.Destination })
		if at < 0 {
			at = len(sums)
			sums = append(sums, Row{Destination: r.Destination, LagKnown: true})
			speeds = append(speeds, 0)
		}
		s := &sums[at]
		s.Produced += r.Produced
		s.Applied += r.Applied
		s.Lag = max(s.Lag, r.Lag)
		s.LagKnown = s.LagKnown && r.LagKnown
		speeds[at] += rates[i]
		if r.State != "" && !strings.Contains(s.State, r.State) {
			s.State = strings.TrimPrefix(s.State+", "+r.State, ", ")
		}
	}
	var b strings.Builder
	b.WriteString(now.Format("15:04:05"))
	for i, s := range sums {
		fmt.Fprintf(&b, "  %s: produced=%d applied=%d lag=%d lag_s=%s rate=%s/s", s.Destination, s.Produced, s.Applied,
			s.LagRecords(), s.seconds(), perSecond(speeds[i]))
		if s.State != "" {
			fmt.Fprintf(&b, " (%s)", s.State)
		}
	}
	b.WriteByte('\n')
	return b.String()
}

func (r Row) seconds() string {
	if !r.LagKnown {
		return "unknown"
	}
	return strconv.FormatFloat(r.Lag.Seconds(), 'f', 1, 64)
}

func perSecond(rate float64) string { return strconv.FormatFloat(rate, 'f', 0, 64) }

// count writes thousands apart, for reading.
func count(n int64) string {
	s := strconv.FormatInt(n, 10)
	sign := ""
	if n < 0 {
		sign, s = "-", s[1:]
	}
	for i := len(s) - 3; i > 0; i -= 3 {
		s = s[:i] + " " + s[i:]
	}
	return sign + s
}
