package e2e

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"sync"
	"testing"
	"time"
)

// buildOnce gives the path of the binary: the one that MILLRACE_BIN names, or one built now.
var buildOnce = sync.OnceValues(func() (string, error) {
	if path := os.Getenv("MILLRACE_BIN"); path != "" {
		return path, nil
	}
	dir, err := os.MkdirTemp("", "millrace-e2e-")
	if err != nil {
		return "", err
	}
	path := filepath.Join(dir, "millrace")
	cmd := exec.Command("go", "build", "-tags", "synctests", "-o", path, "github.com/millrace/millrace")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("building the binary: %w\n%s", err, out)
	}
	return path, nil
})

func TestMain(m *testing.M) {
	code := m.Run()
	if path, err := buildOnce(); err == nil && os.Getenv("MILLRACE_BIN") == "" {
		_ = os.RemoveAll(filepath.Dir(path))
	}
	os.Exit(code) //nolint:forbidigo // this is main
}

func binary(t *testing.T) string {
	t.Helper()
	path, err := buildOnce()
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// process is the binary at work.
type process struct {
	name string
	cmd  *exec.Cmd
	out  *output // both streams
	done chan struct{}
	err  error // after done
}

// output keeps what a process prints.
type output struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buf.Write(p)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buf.String()
}

// start runs `millrace args…` until it is stopped or killed, at the latest at the end of the test.
func start(t *testing.T, name string, args ...string) *process {
	t.Helper()
	p, err := launch(t, name, args...)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// launch is start for other goroutines than the test's own.
func launch(t *testing.T, name string, args ...string) (*process, error) {
	path, err := buildOnce()
	if err != nil {
		return nil, err
	}
	p := &process{name: name, cmd: exec.CommandContext(context.Background(), path, args...), out: &output{}, done: make(chan struct{})}
	p.cmd.Stdout, p.cmd.Stderr = p.out, p.out
	if err := p.cmd.Start(); err != nil {
		return nil, fmt.Errorf("starting %s: %w", name, err)
	}
	go func() {
		p.err = p.cmd.Wait()
		close(p.done)
	}()
	t.Cleanup(func() {
		p.kill()
		if t.Failed() {
			t.Logf("%s printed, at last:\n%s", name, tail(p.out.String(), 6000))
		}
	})
	return p, nil
}

func tail(s string, n int) string {
	if len(s) > n {
		return "…" + s[len(s)-n:]
	}
	return s
}

// stop asks the process to end as an operator does, and wants it to drain and to exit with 0.
func (p *process) stop(signal os.Signal) error {
	if err := p.cmd.Process.Signal(signal); err != nil {
		return fmt.Errorf("stopping %s: %w", p.name, err)
	}
	return p.wait(time.Minute)
}

// wait wants the process to end by itself with 0.
func (p *process) wait(within time.Duration) error {
	select {
	case <-p.done:
		if p.err != nil {
			return fmt.Errorf("%s ended: %w", p.name, p.err)
		}
		return nil
	case <-time.After(within):
		return fmt.Errorf("%s did not end within %s", p.name, within)
	}
}

// kill ends the process at once; nothing of its own runs any more.
func (p *process) kill() {
	_ = p.cmd.Process.Kill() // it may have ended
	<-p.done
}

var addressLine = regexp.MustCompile(`http://[0-9.]+:[0-9]+`)

// address waits for the address that the process prints and for its answer on /-/ready.
func (p *process) address(t *testing.T, within time.Duration) string {
	t.Helper()
	var address string
	eventually(t, within, p.name+" is ready", func(ctx context.Context) error {
		select {
		case <-p.done:
			t.Fatalf("%s ended: %v", p.name, p.err)
		default:
		}
		if address = addressLine.FindString(p.out.String()); address == "" {
			return errors.New("no address printed")
		}
		_, err := get(ctx, address+"/-/ready")
		return err
	})
	return address
}

func get(ctx context.Context, url string) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, http.NoBody)
	if err != nil {
		return nil, err
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, err
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err == nil && res.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %s: %s", url, res.Status, tail(string(body), 500))
	}
	return body, err
}

// command runs `millrace args…` to its end and gives what it prints on standard output.
func command(t *testing.T, stdin io.Reader, args ...string) []byte {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, binary(t), args...)
	var stdout, stderr bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = stdin, &stdout, &stderr
	if err := cmd.Run(); err != nil {
		t.Fatalf("millrace %v: %v\n%s%s", args, err, tail(stdout.String(), 3000), tail(stderr.String(), 3000))
	}
	return stdout.Bytes()
}

// eventually waits for a condition, and says at the end what it lacked.
func eventually(t *testing.T, within time.Duration, what string, condition func(context.Context) error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), within)
	defer cancel()
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	var last error
	for {
		err := condition(ctx)
		if err == nil {
			return
		}
		if last == nil || ctx.Err() == nil { // that the time ran out in the middle of a call says nothing
			last = err
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatalf("%s: not within %s: %v", what, within, last)
		}
	}
}
