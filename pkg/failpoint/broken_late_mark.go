//go:build broken_late_mark

package failpoint

// Broken is the defect of this build.
const Broken = LateMark
