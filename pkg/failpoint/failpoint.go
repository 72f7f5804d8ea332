// Package failpoint provides what the fault suite needs inside of the program: places at which it stops, hangs or
// panics on order, and defects that are built in on purpose to show that the suite finds them. Both are chosen by build
// tag, and a build without the tags has none of it.
//
// With the tag failpoints, MILLRACE_FAILPOINT=NAME=N:ACTION lets the N-th call of Hit(NAME) act: kill is SIGKILL to this
// process, wedge blocks its goroutine for ever whatever its context says, panic panics, stall stops it for four seconds and
// comes again after N calls more. Several are separated by commas; a colon and an action may be left out, for kill. MILLRACE_CLOCK=-1h sets what Now says back by an hour.
package failpoint

// A Defect is a way in which systems of this kind lose or double records.
type Defect int

// The defects, each built in by the tag of the same name: broken_late_mark and so on. See Broken.
const (
	None        Defect = iota
	LateMark           // an acknowledgement that comes after its partition was given up counts
	Bulk200            // an HTTP 200 is taken as the success of all items of a bulk request
	EarlyCommit        // offsets are committed once fetched, before they are written
	SilentReset        // an offset that the log no longer has is replaced by the log's end
)
