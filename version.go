package main

import (
	"fmt"
	"runtime"
	"runtime/debug"
)

// version is set by the linker; a binary that `go install` built has its module's version instead.
var version string //nolint:gochecknoglobals // the linker can set nothing else

// versionCmd prints the version.
type versionCmd struct{}

// Help is the long text of --help.
func (versionCmd) Help() string {
	return "Prints the version that the binary was built from, the Go version and the platform.\n\nExample: millrace version"
}

func (versionCmd) Run(e *env) error {
	v := version
	if info, ok := debug.ReadBuildInfo(); ok && v == "" {
		v = info.Main.Version
	}
	_, err := fmt.Fprintf(e.stdout, "millrace %s %s %s/%s\n", v, runtime.Version(), runtime.GOOS, runtime.GOARCH)
	return err
}
