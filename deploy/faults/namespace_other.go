//go:build !linux

package main

import (
	"context"
	"errors"
	"syscall"
)

var errLinux = errors.New("the fault suite needs the namespaces of Linux")

func inside() bool { return false }

func enter(context.Context, options, []string) error { return errLinux }

func settle(context.Context) error { return errLinux }

func ownGroups() bool { return false }

func detached(uint32) *syscall.SysProcAttr { return nil }

func mortal() *syscall.SysProcAttr { return nil }
