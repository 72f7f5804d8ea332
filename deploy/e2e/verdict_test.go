package e2e

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/millrace/millrace/producers/loadgen"
)

// The judge sees each way in which records can go wrong; a suite that always passes proves nothing.
func TestTheJudgeSeesWhatIsWrong(t *testing.T) {
	sent := journal{"log": {
		"a": {ID: "a", Hash: "1", Outcome: loadgen.OK},
		"b": {ID: "b", Hash: "2", Outcome: loadgen.OK},
		"c": {ID: "c", Hash: "3", Outcome: loadgen.OK},
		"d": {ID: "d", Hash: "4", Outcome: loadgen.Unknown},
	}}
	good := map[string][]string{"a": {"1"}, "b": {"2"}, "c": {"3"}}
	if wrong := sent.judge("lake", "log", good); len(wrong) != 0 {
		t.Errorf("nothing is wrong, and it says %v", wrong)
	}
	bad := map[string][]string{"a": {"1", "1"}, "b": {"9"}, "x": {"1"}}
	want := []string{
		"lake, log: 1 acknowledged and lost, such as [c]",
		"lake, log: 1 found more than once, such as [a]",
		"lake, log: 1 never sent, such as [x]",
		"lake, log: 1 not as they were sent, such as [b]",
	}
	if diff := cmp.Diff(want, sent.judge("lake", "log", bad)); diff != "" {
		t.Error(diff)
	}
}
