//go:build broken_bulk_200

package failpoint

// Broken is the defect of this build.
const Broken = Bulk200
