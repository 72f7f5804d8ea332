//go:build !broken_late_mark && !broken_bulk_200 && !broken_early_commit && !broken_silent_reset

package failpoint

// Broken is the defect of this build: none.
const Broken = None
