package lake

import (
	"errors"
	"testing"
)

// logOf is the topic as Kafka has it.
func logOf(s Source, start, end int64) Log {
	return Log{Source: s, Partitions: map[int32]Bounds{0: {Start: start, End: end}}}
}

func (s *store) put(tb *Table, first, next int64) {
	s.t.Helper()
	if err := tb.Commit(s.t.Context(), s.commit(tb, first, next)); err != nil {
		s.t.Fatal(err)
	}
}

// rollBack sets main to the parent of its snapshot, as other engines do.
func (s *store) rollBack() {
	s.t.Helper()
	ice := s.open().ice
	tx := ice.NewTransaction()
	if err := tx.RollbackToSnapshot(*ice.CurrentSnapshot().ParentSnapshotID); err != nil {
		s.t.Fatal(err)
	}
	if _, err := tx.Commit(s.t.Context()); err != nil {
		s.t.Fatal(err)
	}
}

func (s *store) adopt(log Log, fromEnd bool) *Adoption {
	s.t.Helper()
	tb := s.open()
	a, err := tb.Adoption(s.typ.Topic.Name, log, fromEnd)
	if err != nil {
		s.t.Fatal(err)
	}
	if err := tb.Adopt(s.t.Context(), a, "the topic was made anew"); err != nil {
		s.t.Fatal(err)
	}
	return a
}

func TestAdoptAnotherTopic(t *testing.T) {
	s := newStore(t)
	tb := s.open()
	s.put(tb, 0, 10)
	anew := Source{Cluster: "cluster", TopicID: "anew"}
	a := s.adopt(logOf(anew, 0, 7), false)
	want := AdoptedPartition{State: ErrOtherSource.Error(), Next: 10, History: 10, End: 7}
	if a.Partitions[0] != want {
		t.Errorf("shown %+v, want %+v", a.Partitions[0], want)
	}
	if got := s.position(); got != (Position{}) {
		t.Errorf("stands at %+v, want the start", got)
	}
	ice := s.open().ice
	former, err := formerIn(ice.Properties(), s.typ.Topic.Name)
	if err != nil || len(former) != 1 || former[0].TopicID != here.TopicID || former[0].Partitions[0].Rows != 10 {
		t.Errorf("the former account is %+v (%v)", former, err)
	}
	if got := ice.CurrentSnapshot().Summary.Properties[keyAdopted]; got != "the topic was made anew" {
		t.Errorf("the reason is %q", got)
	}
	tb = s.open()
	c := s.commit(tb, 0, 5)
	c.Sources[s.typ.Topic.Name] = anew
	if err := tb.Commit(t.Context(), c); err != nil {
		t.Fatal(err)
	}
	if got := s.position(); got.Next != 5 || got.Counts.Rows != 5 || s.total() != "15" {
		t.Errorf("stands at %+v with %s rows", got, s.total())
	}
}

func TestAdoptFromTheEnd(t *testing.T) {
	s := newStore(t)
	s.put(s.open(), 0, 10)
	a := s.adopt(logOf(Source{Cluster: "another", TopicID: "topic"}, 3, 7), true)
	if got := s.position(); a.Partitions[0].From != 7 || got.Next != 7 || got.Counts.First != 7 {
		t.Errorf("shown %+v, stands at %+v, want 7", a.Partitions[0], got)
	}
}

// TestAdoptARollback has the table say again what its history says, so that what was rolled back is read again.
func TestAdoptARollback(t *testing.T) {
	s := newStore(t)
	tb := s.open()
	s.put(tb, 0, 10)
	s.put(tb, 10, 20)
	through := s.open().ValidThrough()
	s.rollBack()
	a := s.adopt(logOf(here, 0, 30), false)
	want := AdoptedPartition{State: ErrRolledBack.Error(), Next: 20, History: 10, End: 30, From: 10}
	if a.Partitions[0] != want {
		t.Errorf("shown %+v, want %+v", a.Partitions[0], want)
	}
	if got := s.position(); got.Err != nil || got.Next != 10 || got.Counts.Rows != 10 {
		t.Errorf("stands at %+v, want 10", got)
	}
	if got := s.open().ValidThrough(); !got.Before(through) {
		t.Errorf("valid through %v, which was taken back", got)
	}
	s.put(s.open(), 10, 30)
	if got := s.position(); got.Next != 30 || got.Counts.Rows != 30 || s.total() != "30" {
		t.Errorf("stands at %+v with %s rows, want 30", got, s.total())
	}
}

// TestAdoptALogThatLostRecords goes on at the log's end, and keeps the account of what is there.
func TestAdoptALogThatLostRecords(t *testing.T) {
	s := newStore(t)
	s.put(s.open(), 0, 10)
	a := s.adopt(logOf(here, 0, 6), false)
	if got := s.position(); a.Partitions[0].State != BeyondEnd || got.Next != 6 || got.Counts.First != 6 {
		t.Errorf("shown %+v, stands at %+v, want 6", a.Partitions[0], got)
	}
}

func TestAdoptIsRefused(t *testing.T) {
	s := newStore(t)
	tb := s.open()
	s.put(tb, 0, 10)
	topic := s.typ.Topic.Name
	a, err := tb.Adoption(topic, logOf(here, 0, 10), false)
	if err != nil {
		t.Fatal(err)
	}
	if err := tb.Adopt(t.Context(), a, "for nothing"); !errors.Is(err, ErrNothingToAdopt) {
		t.Errorf("nothing to adopt gave %v", err)
	}
	if a, err = tb.Adoption(topic, logOf(Source{Cluster: "another", TopicID: "topic"}, 0, 10), false); err != nil {
		t.Fatal(err)
	}
	if err := tb.Adopt(t.Context(), a, " "); err == nil {
		t.Error("adopted without a reason")
	}
	s.put(s.open(), 10, 20)
	if err := tb.Adopt(t.Context(), a, "decided on what was shown"); !errors.Is(err, ErrLost) {
		t.Errorf("a decision on a state that has passed gave %v", err)
	}
	if got := s.position(); got.Next != 20 || len(s.open().ice.Metadata().Snapshots()) != 2 {
		t.Errorf("stands at %+v", got)
	}
}
