package lag

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"github.com/millrace/millrace/pkg/httpserver"
	"github.com/millrace/millrace/pkg/lag"
	"github.com/millrace/millrace/pkg/serve"
)

const (
	maxFollowers  = 100             // of the live view, at once
	followWrite   = 5 * time.Second // for one event to be taken
	maxPoints     = 20_000          // of one answer
	defaultWindow = time.Hour
)

// Register adds the routes.
func (m *Monitor) Register(s *httpserver.Server) {
	s.Handle("GET /api/v1/lag", http.HandlerFunc(m.serveView))
	s.Handle("GET /api/v1/lag/history", http.HandlerFunc(m.serveHistory))
	s.Handle("GET /api/v1/lag/events", http.HandlerFunc(m.serveEvents))
}

// filter is which flows an answer is about, and which of their partitions it has.
type filter struct {
	group, topic string
	partitions   string
}

func filterOf(q url.Values) (filter, error) {
	f := filter{group: q.Get("group"), topic: q.Get("topic"), partitions: q.Get("partitions")}
	switch f.partitions {
	case "", "worst", "all", "none":
		return f, nil
	}
	return f, fmt.Errorf("partitions is %q: give worst, all or none", f.partitions)
}

// apply gives what of a view is asked for.
func (f filter) apply(v *lag.View) *lag.View {
	out := *v
	out.Flows = make([]lag.Flow, 0, len(v.Flows))
	for _, one := range v.Flows {
		if (f.group != "" && one.Group != f.group) || (f.topic != "" && one.Topic != f.topic) {
			continue
		}
		switch f.partitions {
		case "all":
		case "none":
			one.Rows = nil
		default:
			one.Rows = one.Rows[:min(worstPartitions, len(one.Rows))]
		}
		out.Flows = append(out.Flows, one)
	}
	return &out
}

func (m *Monitor) serveView(w http.ResponseWriter, r *http.Request) {
	f, err := filterOf(r.URL.Query())
	if err != nil {
		httpserver.Problem(w, http.StatusBadRequest, err.Error())
		return
	}
	httpserver.JSON(w, http.StatusOK, f.apply(m.View()))
}

// historyAnswer is what /api/v1/lag/history answers.
type historyAnswer struct {
	AsOf      time.Time `json:"as_of"`
	Group     string    `json:"group"`
	Topic     string    `json:"topic"`
	Partition *int32    `json:"partition"` // null is the whole flow
	From      time.Time `json:"from"`
	To        time.Time `json:"to"`
	Points    []Point   `json:"points"`
	Truncated bool      `json:"truncated"` // there are older ones
}

func (m *Monitor) serveHistory(w http.ResponseWriter, r *http.Request) {
	now := m.deps.Now()
	a, err := historyQuestion(r.URL.Query(), now)
	if err != nil {
		httpserver.Problem(w, http.StatusBadRequest, err.Error())
		return
	}
	s := subject{a.Group, a.Topic, -1}
	if a.Partition != nil {
		s.partition = *a.Partition
	}
	if !m.history.has(s) {
		httpserver.Problem(w, http.StatusNotFound, "there is no history of this group and topic; partitions have one while they are past their objective")
		return
	}
	a.AsOf = m.View().AsOf
	a.Points = m.history.read(s, a.From, a.To)
	if n := len(a.Points); n > maxPoints {
		a.Points, a.Truncated = a.Points[n-maxPoints:], true
	}
	httpserver.JSON(w, http.StatusOK, a)
}

func historyQuestion(q url.Values, now time.Time) (*historyAnswer, error) {
	a := &historyAnswer{Group: q.Get("group"), Topic: q.Get("topic"), Points: []Point{}}
	if a.Group == "" || a.Topic == "" {
		return nil, errors.New("give group and topic")
	}
	if text := q.Get("partition"); text != "" {
		n, err := strconv.ParseInt(text, 10, 32)
		if err != nil || n < 0 {
			return nil, fmt.Errorf("partition is %q: give a number", text)
		}
		a.Partition = new(int32(n))
	}
	var err error
	a.From, a.To, err = serve.TimeRange(q, now, defaultWindow)
	return a, err
}

// serveEvents sends each view as it comes, as server-sent events: the last one at once. A client that takes none is cut off.
func (m *Monitor) serveEvents(w http.ResponseWriter, r *http.Request) {
	f, err := filterOf(r.URL.Query())
	if err != nil {
		httpserver.Problem(w, http.StatusBadRequest, err.Error())
		return
	}
	if m.followers.Add(1) > maxFollowers {
		m.followers.Add(-1)
		w.Header().Set("Retry-After", "10")
		httpserver.Problem(w, http.StatusServiceUnavailable, fmt.Sprintf("%d clients follow already", maxFollowers))
		return
	}
	defer m.followers.Add(-1)
	w.Header().Set("Content-Type", "text/event-stream")
	w.Header().Set("Cache-Control", "no-store")
	rc := http.NewResponseController(w)
	for {
		next := m.views.wait() // before the view is read, so that none is passed over
		if err := event(w, rc, f.apply(m.View())); err != nil {
			return
		}
		if next == nil {
			return
		}
		select {
		case <-next:
		case <-r.Context().Done():
			return
		}
	}
}

func event(w http.ResponseWriter, rc *http.ResponseController, v *lag.View) error {
	if err := rc.SetWriteDeadline(time.Now().Add(followWrite)); err != nil {
		return fmt.Errorf("bounding a write: %w", err)
	}
	body, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("writing an event: %w", err)
	}
	if _, err := fmt.Fprintf(w, "event: lag\nid: %d\ndata: %s\n\n", v.AsOf.UnixMilli(), body); err != nil { //nolint:gosec // JSON, as an event stream
		return fmt.Errorf("writing an event: %w", err)
	}
	return rc.Flush()
}
