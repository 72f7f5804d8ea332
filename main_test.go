package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// asMain makes this test binary the program itself, so that processes can be killed without building another binary; or
// the program in another role, for which see mainWith.
const (
	asMain    = "MILLRACE_TEST_AS_MAIN"
	asProgram = "1"
)

func TestMain(m *testing.M) {
	switch role := os.Getenv(asMain); role {
	case "":
	case asProgram:
		main()
		return
	default:
		os.Exit(mainWith(role, os.Args[1])) //nolint:forbidigo // the end of a process
	}
	os.Exit(m.Run()) //nolint:forbidigo // the test binary's own end
}

const patience = 60 * time.Second // for anything that another process has to do

// process is a running millrace.
type process struct {
	cmd  *exec.Cmd
	addr string // of its API
	done chan error

	ended time.Time // once done has something

	mu  sync.Mutex
	out bytes.Buffer
}

// start runs millrace and waits for its address.
func start(t *testing.T, args ...string) *process {
	t.Helper()
	return startAs(t, asProgram, args...)
}

func startAs(t *testing.T, role string, args ...string) *process {
	t.Helper()
	p := &process{cmd: exec.CommandContext(t.Context(), os.Args[0], args...), done: make(chan error, 1)}
	p.cmd.Env = append(os.Environ(), asMain+"="+role)
	r, w := io.Pipe()
	p.cmd.Stdout, p.cmd.Stderr = w, w
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	addr := make(chan string, 1)
	go p.follow(r, addr)
	go func() {
		err := p.cmd.Wait()
		p.ended = time.Now()
		_ = w.Close()
		p.done <- err
	}()
	t.Cleanup(func() {
		_ = p.cmd.Process.Kill()
		if t.Failed() {
			t.Logf("millrace %s printed:\n%s", strings.Join(args, " "), p.output())
		}
	})
	select {
	case p.addr = <-addr:
	case err := <-p.done:
		t.Fatalf("millrace ended: %v\n%s", err, p.output())
	case <-time.After(patience):
		t.Fatalf("no address within %s:\n%s", patience, p.output())
	}
	return p
}

func (p *process) follow(r io.Reader, addr chan<- string) {
	lines := bufio.NewScanner(r)
	for lines.Scan() {
		p.mu.Lock()
		p.out.WriteString(lines.Text() + "\n")
		p.mu.Unlock()
		if _, a, ok := strings.Cut(lines.Text(), "at http://"); ok {
			select {
			case addr <- "http://" + a:
			default:
			}
		}
	}
}

func (p *process) output() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.out.String()
}

// stop interrupts and wants a clean end.
func (p *process) stop(t *testing.T) {
	t.Helper()
	if err := p.cmd.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	p.wait(t)
}

// wait wants a clean end after an interrupt.
func (p *process) wait(t *testing.T) {
	t.Helper()
	select {
	case err := <-p.done:
		if err != nil {
			t.Errorf("after an interrupt: %v", err)
		}
	case <-time.After(patience):
		_ = p.cmd.Process.Signal(syscall.SIGQUIT) // for the stacks
		t.Fatalf("still running %s after an interrupt", patience)
	}
}

func (p *process) kill(t *testing.T) {
	t.Helper()
	if err := p.cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	if err := <-p.done; err == nil {
		t.Error("a killed process ended without an error")
	}
}

// get decodes an answer of the API into v, and says what else came.
func (p *process) get(t *testing.T, path string, v any) error {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, p.addr+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return err
	}
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("%s: %d %s", path, resp.StatusCode, body)
	}
	return json.Unmarshal(body, v)
}

// millrace runs a command in this process.
func millrace(t *testing.T, stdin string, args ...string) (stdout, stderr string, code int) {
	t.Helper()
	var out, errs bytes.Buffer
	code = run(t.Context(), args, strings.NewReader(stdin), &out, &errs)
	return out.String(), errs.String(), code
}

// eventually waits for a condition, asking again and again.
func eventually(t *testing.T, what string, cond func() error) {
	t.Helper()
	deadline := time.Now().Add(patience)
	err := errors.New("never asked")
	for time.Now().Before(deadline) {
		if err = cond(); err == nil {
			return
		}
		select {
		case <-t.Context().Done():
			t.Fatal(t.Context().Err())
		case <-time.After(100 * time.Millisecond):
		}
	}
	t.Fatalf("%s: not within %s: %v", what, patience, err)
}
