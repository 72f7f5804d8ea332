package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// insideVariable is set, to the working directory, in the process that runs within the namespaces.
const insideVariable = "MILLRACE_FAULTS_INSIDE"

func inside() bool { return os.Getenv(insideVariable) != "" }

// enter runs this program once more in namespaces of its own: in new ones, or in those of servers that an earlier run
// left running.
func enter(ctx context.Context, o options, args []string) error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	dir, err := os.Getwd()
	if err != nil {
		return err
	}
	root := os.Geteuid() == 0
	var cmd *exec.Cmd
	if pid, ok := runningServer(o.out); ok {
		enter := []string{"--target", strconv.Itoa(pid), "--net", "--mount", "--wd=" + dir}
		if !root {
			enter = append(enter, "--user", "--preserve-credentials")
		}
		cmd = exec.CommandContext(ctx, "nsenter", append(append(enter, self), args...)...) //nolint:gosec // itself
		cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGTERM}
	} else {
		cmd = exec.CommandContext(ctx, self, args...) //nolint:gosec // itself
		cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET | syscall.CLONE_NEWNS, Pdeathsig: syscall.SIGTERM}
		if !root {
			cmd.SysProcAttr.Cloneflags |= syscall.CLONE_NEWUSER
			cmd.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getuid(), Size: 1}}
			cmd.SysProcAttr.GidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getgid(), Size: 1}}
		}
	}
	cmd.Env = append(os.Environ(), insideVariable+"="+dir)
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = 2 * time.Minute // it stops the servers
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("making a network and a mount namespace (this wants root, or a kernel that gives them to users): %w", err)
	}
	var exit *exec.ExitError
	if err := cmd.Wait(); errors.As(err, &exit) {
		return errors.New("see above")
	} else if err != nil {
		return err
	}
	return nil
}

// settle makes the new namespaces usable: what is mounted in them stays in them, and there is a loopback.
func settle(ctx context.Context) error {
	if err := syscall.Mount("", "/", "", syscall.MS_REC|syscall.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("making the mounts private: %w", err)
	}
	if out, err := exec.CommandContext(ctx, "ip", "link", "set", "lo", "up").CombinedOutput(); err != nil {
		return fmt.Errorf("setting the loopback up (`ip` is of the package iproute2): %w\n%s", err, out)
	}
	return nil
}

// ownGroups says whether processes can be given groups of their own: not in a namespace of a user, which has one.
func ownGroups() bool {
	ids, err := os.ReadFile("/proc/self/gid_map")
	fields := strings.Fields(string(ids))
	return err == nil && len(fields) == 3 && fields[2] != "1"
}

// detached makes a process outlive this one, out of reach of the terminal's interrupt, with a group of its own where
// there are any.
func detached(gid uint32) *syscall.SysProcAttr {
	attr := &syscall.SysProcAttr{Setsid: true}
	if os.Geteuid() == 0 && ownGroups() {
		attr.Credential = &syscall.Credential{Gid: gid}
	}
	return attr
}

// mortal makes a process end with this one.
func mortal() *syscall.SysProcAttr { return &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL} }
