//go:build broken_early_commit

package failpoint

// Broken is the defect of this build.
const Broken = EarlyCommit
