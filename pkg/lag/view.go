package lag

import (
	"cmp"
	"maps"
	"math"
	"slices"
	"strings"
	"time"
)

// Row is one group on one partition.
type Row struct {
	Group     string `json:"group"`
	Topic     string `json:"topic"`
	Partition int32  `json:"partition"`

	Start     int64  `json:"start"`
	Committed *int64 `json:"committed"` // null where it never committed
	Applied   *int64 `json:"applied"`   // null where nobody says
	Fetched   *int64 `json:"fetched"`   // null where nobody says
	Stable    int64  `json:"stable"`
	End       int64  `json:"end"`
	Reads     string `json:"reads"` // committed or all: which of the two ends it is held against

	// Records are offsets: what is between a position and the end. They are negative where the position is ahead, and null
	// where nothing is known.
	Records        *int64 `json:"lag_records"`
	AppliedRecords *int64 `json:"lag_applied_records"`
	FetchedRecords *int64 `json:"lag_fetched_records"`
	// Exact is how many records that are, where it was counted: markers of transactions and what compaction took are offsets
	// without a record.
	Exact *int64 `json:"lag_exact_records"`

	Age        Seconds `json:"lag_seconds"`
	AppliedAge Seconds `json:"lag_applied_seconds"`

	In       *float64 `json:"in_per_second"`
	Out      *float64 `json:"out_per_second"`
	CatchUp  *float64 `json:"catch_up_seconds"` // null where it is not known; -1 is never
	Headroom *float64 `json:"headroom_seconds"` // null where nothing is to be deleted, or it is not known
	// NoHeadroom says that records may be unread and be deleted, and that it is not known when. Of a topic that is bounded by
	// time and by size there may be a Headroom all the same, that of the one that is known.
	NoHeadroom bool  `json:"headroom_unknown,omitempty"`
	Expired    int64 `json:"expired_records"`
	Rewinds    int64 `json:"rewinds"`

	Owner  string `json:"owner,omitempty"`
	Status Status `json:"status"`
	Cause
	Past bool `json:"past_objective"`
}

// Flow is one group on one topic: the worst of its partitions.
type Flow struct {
	Group      string   `json:"group"`
	Topic      string   `json:"topic"`
	State      string   `json:"state"` // of the group
	Members    int      `json:"members"`
	Partitions int      `json:"partitions"`
	Unknown    int      `json:"unknown_partitions"` // of which nothing is known
	Objective  float64  `json:"objective_seconds,omitempty"`
	Records    *int64   `json:"lag_records"`         // the sum of what is known; null where nothing is
	Applied    *int64   `json:"lag_applied_records"` // the sum
	Fetched    *int64   `json:"lag_fetched_records"` // the sum
	Most       int64    `json:"max_lag_records"`
	Age        Seconds  `json:"lag_seconds"` // the worst
	AppliedAge Seconds  `json:"lag_applied_seconds"`
	In         *float64 `json:"in_per_second"`
	Out        *float64 `json:"out_per_second"`
	CatchUp    *float64 `json:"catch_up_seconds"`
	Headroom   *float64 `json:"headroom_seconds"` // the least
	NoHeadroom int      `json:"headroom_unknown_partitions"`
	Expired    int64    `json:"expired_records"`
	Rewinds    int64    `json:"rewinds"`
	Status     Status   `json:"status"`
	Cause
	Past    bool  `json:"past_objective"`
	Workers int   `json:"workers_wanted"`
	Rows    []Row `json:"partitions_detail"` // worst first
}

// View is what a Watcher says at a time.
type View struct {
	Cluster string    `json:"cluster,omitempty"` // the id of the last look's
	AsOf    time.Time `json:"as_of"`             // of the last look
	Age     float64   `json:"age_seconds"`
	Took    float64   `json:"look_seconds"`
	Calls   int       `json:"calls"`
	Blind   string    `json:"blind,omitempty"` // why there was no look since
	Errors  []string  `json:"errors,omitempty"`
	Flows   []Flow    `json:"flows"` // worst first
	Skew    float64   `json:"clock_skew_seconds,omitempty"`
}

// Past says whether anything is past its objective.
func (v *View) Past() bool {
	return v.Blind != "" || slices.ContainsFunc(v.Flows, func(f Flow) bool { return f.Past })
}

// View says how it all stands.
func (w *Watcher) View(now time.Time) *View {
	v := &View{Flows: []Flow{}, Skew: w.skew.Seconds()}
	if w.look == nil {
		v.Blind = "nothing was read yet"
		if w.failure != nil {
			v.Blind = w.failure.Error()
		}
		return v
	}
	v.Cluster, v.AsOf, v.Age = w.look.Cluster, w.look.Ended.UTC(), now.Sub(w.look.Ended).Seconds()
	v.Took, v.Calls = w.look.Ended.Sub(w.look.Begun).Seconds(), w.look.Calls
	for _, err := range w.look.Errors {
		v.Errors = append(v.Errors, err.Error())
	}
	if limit := 3*w.opts.Interval + w.look.Ended.Sub(w.look.Begun); now.Sub(w.look.Ended) > limit {
		v.Blind = "no look succeeded since"
		if w.failure != nil {
			v.Blind = w.failure.Error()
		}
	}
	for _, g := range w.groups { // as it was then: what was unread may be read by now
		v.Flows = append(v.Flows, w.flows(g, w.look.Ended, v.Blind)...)
	}
	slices.SortFunc(v.Flows, worseFlow)
	return v
}

// flows gives a group's, a flow for each topic.
func (w *Watcher) flows(g *groupState, now time.Time, blind string) []Flow {
	byTopic := map[string]*Flow{}
	ctx := w.group(g, now, blind)
	for p, one := range g.pairs {
		f := byTopic[p.Topic]
		if f == nil {
			f = &Flow{
				Group: g.Name, Topic: p.Topic, State: g.State, Members: len(g.Members), Status: OK, Age: noLag(), AppliedAge: noLag(),
				Objective: ctx.objective.Seconds(),
			}
			byTopic[p.Topic] = f
		}
		f.Partitions++
		f.add(w.row(ctx, p, one))
	}
	out := make([]Flow, 0, len(byTopic))
	for _, f := range byTopic {
		slices.SortFunc(f.Rows, worseRow)
		ctx.judge(f)
		out = append(out, *f)
	}
	return out
}

func (f *Flow) add(r Row) {
	f.Rows = append(f.Rows, r)
	sum(&f.Records, r.Records)
	f.Most = max(f.Most, r.lag())
	sum(&f.Applied, r.AppliedRecords)
	sum(&f.Fetched, r.FetchedRecords)
	f.Age, f.AppliedAge = worst(f.Age, r.Age), worst(f.AppliedAge, r.AppliedAge)
	sum(&f.In, r.In)
	sum(&f.Out, r.Out)
	if c := r.CatchUp; c != nil && (f.CatchUp == nil || *c < 0 || (*f.CatchUp >= 0 && *c > *f.CatchUp)) {
		f.CatchUp = c
	}
	if h := r.Headroom; h != nil && (f.Headroom == nil || *h < *f.Headroom) {
		f.Headroom = h
	}
	if r.NoHeadroom {
		f.NoHeadroom++
	}
	f.Expired += r.Expired
	f.Rewinds += r.Rewinds
	f.Past = f.Past || r.Past
	if severity[r.Status] > severity[f.Status] {
		f.Status = r.Status
	}
	if r.Age.Method == Unknown {
		f.Unknown++
	}
}

// sum adds what is known.
func sum[N int64 | float64](into **N, n *N) {
	if n == nil {
		return
	}
	if *into == nil {
		*into = new(N)
	}
	**into += *n
}

// lag is the row's, or 0 where it is not known.
func (r *Row) lag() int64 { return or0(r.Records) }

func or0[N int64 | float64](n *N) (out N) {
	if n != nil {
		out = *n
	}
	return out
}

// worst is the age of the worse of two: the one that may be older. What is not known is worse than anything.
func worst(a, b Seconds) Seconds {
	if b.atMost() > a.atMost() {
		return b
	}
	return a
}

// atMost is the upper bound.
func (s Seconds) atMost() float64 {
	switch {
	case s.High != nil:
		return *s.High
	case s.Low != nil:
		return math.MaxFloat64 / 2
	}
	return math.Inf(1)
}

// atLeast is the lower bound; what is not known is at least nothing.
func (s Seconds) atLeast() float64 {
	if s.Low == nil {
		return 0
	}
	return *s.Low
}

func worseRow(a, b Row) int {
	return cmp.Or(cmp.Compare(b.Age.atMost(), a.Age.atMost()), cmp.Compare(b.lag(), a.lag()), cmp.Compare(a.Partition, b.Partition))
}

func worseFlow(a, b Flow) int {
	past := func(f Flow) int {
		if f.Past {
			return 1
		}
		return 0
	}
	return cmp.Or(cmp.Compare(past(b), past(a)), cmp.Compare(severity[b.Status], severity[a.Status]),
		cmp.Compare(b.Age.atMost(), a.Age.atMost()), cmp.Compare(or0(b.Records), or0(a.Records)), strings.Compare(a.Group, b.Group), strings.Compare(a.Topic, b.Topic))
}

// groupContext is what all rows of a group have in common.
type groupContext struct {
	w         *Watcher
	g         *groupState
	now       time.Time
	blind     string
	committed bool
	objective time.Duration
	owners    map[Partition]*Member
	says      map[Partition]*PartitionReport // the freshest of each
	of        map[Partition]*Report
}

func (w *Watcher) group(g *groupState, now time.Time, blind string) *groupContext {
	c := &groupContext{
		w: w, g: g, now: now, blind: blind, committed: w.opts.Committed(g.Name), objective: w.opts.Objective(g.Name),
		owners: map[Partition]*Member{}, says: map[Partition]*PartitionReport{}, of: map[Partition]*Report{},
	}
	for i := range g.Members {
		for _, p := range g.Members[i].Partitions {
			c.owners[p] = &g.Members[i]
		}
	}
	byAge := func(a, b *Report) int { return cmp.Or(a.At.Compare(b.At), strings.Compare(a.Instance, b.Instance)) }
	for _, r := range slices.SortedFunc(maps.Values(w.reports[g.Name]), byAge) { // the latest last
		for i := range r.Partitions {
			p := Partition{r.Partitions[i].Topic, r.Partitions[i].Partition}
			c.says[p], c.of[p] = &r.Partitions[i], r
		}
	}
	return c
}

func (w *Watcher) row(c *groupContext, p Partition, one *pair) Row {
	log := w.logs[p]
	r := Row{
		Group: c.g.Name, Topic: p.Topic, Partition: p.Number, Start: log.Start, Stable: log.Stable, End: log.End,
		Reads: "all", Expired: one.expired, Rewinds: one.track.rewinds, Status: OK,
	}
	if c.committed {
		r.Reads = "committed"
	}
	if one.committed >= 0 {
		r.Committed = new(one.committed)
	}
	if m := c.owners[p]; m != nil {
		r.Owner = cmp.Or(m.Instance, m.ID)
		if m.Host != "" {
			r.Owner += " (" + strings.TrimPrefix(m.Host, "/") + ")"
		}
	}
	if c.g.Err != nil || log.Err != nil || c.blind != "" || log.End < 0 {
		r.Age, r.AppliedAge = Seconds{Method: Unknown}, Seconds{Method: Unknown}
		r.NoHeadroom = true
		r.Cause = c.blindCause(log)
		return r
	}
	end := w.endFor(c.g.Name, log)
	from := max(one.committed, log.Start)
	r.Records = new(end - from)
	r.AppliedAge = Seconds{Method: Unknown}
	switch lag := r.lag(); {
	case lag > 0:
		r.Age = one.head.seconds(c.now)
	case lag == 0:
		r.Age, r.AppliedAge = noLag(), noLag()
	default: // ahead of the log: what it has read of it is not known
		r.Age = Seconds{Method: Unknown}
	}
	w.counted(&r, one, end)
	w.reported(&r, c, p, end)
	w.speeds(&r, c, one, log)
	w.headroom(&r, p, log)
	r.Past = c.objective > 0 && r.Age.atLeast() > c.objective.Seconds()
	r.Status = one.track.evaluate(c.window(), c.g.Unseen != nil || len(c.g.Members) > 0)
	r.Cause = c.diagnose(&r, p, one, log)
	return r
}

// counted takes over how many records there are, where that is known: none, if the rest are markers.
func (w *Watcher) counted(r *Row, one *pair, end int64) {
	if one.probed != end || end <= one.from {
		return
	}
	r.Exact = new(one.exact)
	if one.exact == 0 {
		r.Age, r.AppliedAge = noLag(), noLag()
	}
}

// reported adds what the consumer says of itself.
func (w *Watcher) reported(r *Row, c *groupContext, p Partition, end int64) {
	says := c.says[p]
	if says == nil || c.of[p].stale(c.now.Add(w.skew)) {
		return
	}
	position := func(at int64, into, lag **int64) {
		if at >= 0 {
			behind := max(end-max(at, r.Start), min(end-at, 0))
			*into, *lag = &at, &behind
		}
	}
	said := *says // a commit may be newer than what the consumer said last
	if r.Committed != nil && said.Applied >= 0 && said.Applied < *r.Committed {
		said.Applied, said.Head = *r.Committed, 0
	}
	if said.Fetched >= 0 {
		said.Fetched = max(said.Fetched, said.Applied)
	}
	says = &said
	position(says.Applied, &r.Applied, &r.AppliedRecords)
	position(says.Fetched, &r.Fetched, &r.FetchedRecords)
	switch {
	case r.AppliedRecords == nil:
	case *r.AppliedRecords <= 0:
		r.AppliedAge = noLag()
	case says.Head > 0:
		h := head{at: exactly(w.here(says.Head)), method: ByReport}
		r.AppliedAge = h.seconds(c.now)
	default: // nothing of it is held: the record after what was applied is not fetched yet
		h := head{at: w.logs[p].ends.appended(says.Applied), method: ByHistory}
		r.AppliedAge = h.seconds(c.now)
	}
	if r.lag() > 0 && says.Head > 0 && says.Applied >= 0 && r.Committed != nil && says.Applied == *r.Committed {
		h := head{at: exactly(w.here(says.Head)), method: ByReport}
		r.Age = h.seconds(c.now)
	}
}

// rateWindow is over how long rates are taken.
const rateWindow = 5 * time.Minute

// speeds adds the rates, and how long the lag takes to be gone at them. A group that keeps up always has a little lag, and
// nothing to catch up with.
func (w *Watcher) speeds(r *Row, c *groupContext, one *pair, log *logState) {
	r.In = log.in
	r.Out = one.track.out(w.look.Ended)
	switch {
	case r.lag() <= 0:
		r.CatchUp = new(0.0)
	case r.In == nil || r.Out == nil || r.Age.atMost() <= c.patience():
	case *r.Out > *r.In:
		r.CatchUp = new(float64(r.lag()) / (*r.Out - *r.In))
	default:
		r.CatchUp = new(-1.0)
	}
}

func (r *Row) from() int64 {
	if r.Committed == nil {
		return r.Start
	}
	return max(*r.Committed, r.Start)
}

// headroom is how long it takes at least until the oldest unread record may be deleted: Kafka deletes a segment when its
// newest record is past the retention, or when the log is larger than it may be without it.
func (w *Watcher) headroom(r *Row, p Partition, log *logState) {
	t, read := w.look.Topics[p.Topic]
	if r.lag() <= 0 {
		return
	}
	size, sized := w.look.Sizes[p]
	r.NoHeadroom = !read || t.Unread || t.Retention > 0 && r.Age.High == nil || t.RetentionBytes > 0 && (!sized || r.In == nil)
	least := math.Inf(1)
	if t.Retention > 0 && r.Age.High != nil {
		least = t.Retention.Seconds() - *r.Age.High
	}
	if sized && t.RetentionBytes > 0 && log.End > log.Start && r.In != nil && *r.In > 0 {
		each := float64(size) / float64(log.End-log.Start)
		least = min(least, (float64(t.RetentionBytes)-each*float64(r.lag()))/(each**r.In))
	}
	if !math.IsInf(least, 0) {
		least = max(0, least)
		r.Headroom = &least
	}
}
