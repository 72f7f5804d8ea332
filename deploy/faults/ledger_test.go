package main

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/millrace/millrace/pkg/client"
)

// TestVerdicts: each way in which a record can be lost, doubled, altered or made up is seen, and nothing else is.
func TestVerdicts(t *testing.T) {
	const es, lake = "elasticsearch", "lake"
	unknown := errors.New("time-out")
	for _, c := range []struct {
		name      string
		where     string
		sends     []error // the outcomes of its sends
		entry     entry
		rows      int
		letters   int
		altered   bool
		want      string
		wantGone  int64
		neverSent bool
	}{
		{name: "stored", where: es, sends: []error{nil}, rows: 1},
		{name: "lost", where: es, sends: []error{nil}, want: "lost"},
		{name: "doubled", where: es, sends: []error{nil}, rows: 2, want: "doubled"},
		{name: "altered", where: es, sends: []error{nil}, rows: 1, altered: true, want: "altered"},
		{name: "never sent", where: es, neverSent: true, rows: 1, want: "never sent"},
		{name: "unknown and not there", where: es, sends: []error{unknown}},
		{name: "unknown and there", where: es, sends: []error{unknown}, rows: 1},
		{name: "unknown and there twice", where: lake, sends: []error{unknown}, rows: 2, want: "doubled"},
		{name: "refused", where: es, sends: []error{client.ErrTooLarge}},
		{name: "refused and there", where: es, sends: []error{client.ErrTooLarge}, rows: 1, want: "refused by Kafka, and stored"},
		{name: "twice in a store", where: es, sends: []error{nil, nil}, rows: 1},
		{name: "twice in the lake", where: lake, sends: []error{nil, nil}, rows: 2},
		{name: "twice, once in the lake", where: lake, sends: []error{nil, nil}, rows: 1, want: "lost"},
		{name: "ok and unknown in the lake", where: lake, sends: []error{nil, unknown}, rows: 2},
		{name: "thrice in the lake", where: lake, sends: []error{nil, nil}, rows: 3, want: "doubled"},
		{name: "a letter that must be", where: es, sends: []error{nil}, entry: entry{must: toElasticsearch}, letters: 1},
		{name: "a letter of another", where: lake, sends: []error{nil}, entry: entry{must: toElasticsearch}, letters: 1, want: "a dead letter, though nothing was wrong with it"},
		{name: "a letter that may be", where: es, sends: []error{nil}, entry: entry{may: toElasticsearch}, letters: 1},
		{name: "none, though it may be", where: es, sends: []error{nil}, entry: entry{may: toElasticsearch}, rows: 1},
		{name: "no letter that must be", where: es, sends: []error{nil}, entry: entry{must: toElasticsearch}, want: "lost"},
		{name: "stored, though bad", where: es, sends: []error{nil}, entry: entry{must: toElasticsearch}, rows: 1, want: "stored, though it is to be refused"},
		{name: "stored and a letter", where: es, sends: []error{nil}, entry: entry{may: toElasticsearch}, rows: 1, letters: 1, want: "stored, and a dead letter"},
		{name: "refused and a letter", where: es, sends: []error{client.ErrTooLarge}, entry: entry{may: toElasticsearch}, letters: 1, want: "refused by Kafka, and a dead letter"},
		{name: "a letter never sent", where: es, neverSent: true, letters: 1, want: "never sent, and a dead letter"},
		{name: "gone", where: es, sends: []error{nil}, entry: entry{gone: toElasticsearch}, wantGone: 1},
		{name: "gone for another", where: lake, sends: []error{nil}, entry: entry{gone: toElasticsearch}, want: "lost"},
		{name: "gone, and there in time", where: es, sends: []error{nil}, entry: entry{gone: toElasticsearch}, rows: 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			l := newLedger()
			c.entry.key, c.entry.hash = key{1}, hash{2}
			for _, err := range c.sends {
				l.outcome(l.intent(c.entry), err)
			}
			f := l.finding(c.where)
			k, h := c.entry.key, c.entry.hash
			if c.neverSent {
				k = key{9}
			}
			if c.altered {
				h = hash{3}
			}
			for range c.rows {
				f.row(k, h)
			}
			for range c.letters {
				f.letter(k, "record", "refused")
			}
			var got []string
			for _, v := range f.judge() {
				got = append(got, v.What)
			}
			var want []string
			if c.want != "" {
				want = []string{c.want}
			}
			if !slices.Equal(got, want) || f.Gone != c.wantGone {
				t.Errorf("got %q with %d gone, want %q with %d", got, f.Gone, want, c.wantGone)
			}
		})
	}
}

func TestAFaultThatDidNotBiteFails(t *testing.T) {
	for _, c := range []struct {
		bites map[string]int64
		want  string
	}{
		{nil, "no evidence"},
		{map[string]int64{"killed": 3, "in flight": 0}, "in flight: 0"},
		{map[string]int64{"killed": 3}, ""},
	} {
		r := result{Verdict: failed, Evidence: evidence{Bites: c.bites}}
		r.conclude(nil)
		if r.ok() != (c.want == "") || !strings.Contains(r.Error, c.want) {
			t.Errorf("%v: %s %q, want %q", c.bites, r.Verdict, r.Error, c.want)
		}
	}
	r := result{Verdict: failed, Evidence: evidence{Bites: map[string]int64{"killed": 1}}, Violations: []violation{{Where: "lake", What: "lost", Count: 1}}}
	if r.conclude(nil); r.ok() {
		t.Error("a violation passes")
	}
}

func TestSumMetric(t *testing.T) {
	text := []byte(`# HELP a_total x
a_total{consumer="lake",topic="t"} 2
a_total{consumer="lake",topic="u"} 3.5
a_total{consumer="cassandra",topic="t"} 7
a_total_more{consumer="lake"} 100
b 4
`)
	if got := sumMetric(text, "a_total", `consumer="lake"`); got != 5.5 {
		t.Errorf("got %v, want 5.5", got)
	}
	if got := sumMetric(text, "b"); got != 4 {
		t.Errorf("got %v, want 4", got)
	}
}

// TestEveryDefectHasAScenario: a defect that no scenario is to find would be a claim of nobody.
func TestEveryDefectHasAScenario(t *testing.T) {
	numbers := map[int]bool{}
	for _, s := range scenarios() {
		if numbers[s.number] {
			t.Errorf("there are two scenarios %d", s.number)
		}
		numbers[s.number] = true
	}
	for n := range 23 {
		if !numbers[n+1] {
			t.Errorf("there is no scenario %d", n+1)
		}
	}
	for _, v := range variants() {
		if len(v.scenarios) == 0 || !slices.ContainsFunc(v.scenarios, func(n int) bool { return numbers[n] }) {
			t.Errorf("no scenario is to find %s", v.name)
		}
	}
}
