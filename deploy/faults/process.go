package main

import (
	"bufio"
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
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"time"
)

// process is the binary under test at work.
type process struct {
	name string
	cmd  *exec.Cmd
	log  string        // file of both its streams
	done chan struct{} // closed at its end
	err  error         // after done

	ending atomic.Bool // somebody wants it to end, or to die of a failpoint
	addr   string      // once it was asked for
}

// start runs `millrace args…`. The environment is added to this process's own, as NAME=value.
func (e *env) start(name string, environment []string, args ...string) (*process, error) {
	p := &process{name: name, log: filepath.Join(e.dir, name+".log"), done: make(chan struct{})}
	log, err := os.OpenFile(p.log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, err
	}
	defer log.Close()
	p.cmd = exec.Command(e.binary, args...) //nolint:gosec,noctx // the binary under test; kill ends it
	p.cmd.Env = append(os.Environ(), environment...)
	p.cmd.Stdout, p.cmd.Stderr = log, log
	p.cmd.SysProcAttr = mortal()
	if err := p.cmd.Start(); err != nil {
		return nil, fmt.Errorf("starting %s: %w", name, err)
	}
	go func() {
		p.err = p.cmd.Wait()
		close(p.done)
	}()
	e.mu.Lock()
	e.processes = append(e.processes, p)
	e.mu.Unlock()
	return p, nil
}

func (p *process) signal(sig syscall.Signal) error {
	if err := p.cmd.Process.Signal(sig); err != nil {
		return fmt.Errorf("sending %v to %s: %w", sig, p.name, err)
	}
	return nil
}

// stop asks the process to end as an operator does, and wants it to drain and to exit with 0 within 30 s. One that has only
// just been started dies of the signal as any program does, so it is to be up first.
func (p *process) stop(ctx context.Context) error {
	if _, err := p.address(ctx); err != nil {
		return err
	}
	p.ending.Store(true)
	begun := time.Now()
	if err := p.signal(syscall.SIGTERM); err != nil {
		return err
	}
	select {
	case <-p.done:
	case <-time.After(time.Minute):
		p.kill()
		return fmt.Errorf("%s did not end within a minute of SIGTERM: its log is %s", p.name, p.log)
	case <-ctx.Done():
		return ctx.Err()
	}
	if p.err != nil {
		return fmt.Errorf("%s, asked to stop, ended with: %w; its log is %s", p.name, p.err, p.log)
	}
	if took := time.Since(begun); took > 30*time.Second {
		return fmt.Errorf("%s took %.0f s to stop: it is to take less than 30 s", p.name, took.Seconds())
	}
	return nil
}

// kill is kill -9; nothing of the process runs any more.
func (p *process) kill() {
	p.ending.Store(true)
	_ = p.cmd.Process.Kill() // it may have ended
	<-p.done
}

// ended says how a process has ended that nobody asked to.
func (p *process) ended() error {
	select {
	case <-p.done:
		if !p.ending.Load() {
			return fmt.Errorf("%s ended by itself (%w): its log is %s", p.name, p.err, p.log)
		}
	default:
	}
	return nil
}

// awaitKilled waits until the process has died of SIGKILL, as by a failpoint.
func (p *process) awaitKilled(ctx context.Context, within time.Duration) error {
	p.ending.Store(true)
	return until(ctx, within, "the death of "+p.name, func(context.Context) error {
		select {
		case <-p.done:
		default:
			return errors.New("it runs")
		}
		if s, ok := p.cmd.ProcessState.Sys().(syscall.WaitStatus); !ok || !s.Signaled() || s.Signal() != syscall.SIGKILL {
			return &finalError{fmt.Errorf("it ended otherwise than by SIGKILL: %w; its log is %s", p.err, p.log)}
		}
		return nil
	})
}

// awaitFailed waits until the process has ended by itself with an exit code that is not 0, and gives it.
func (p *process) awaitFailed(ctx context.Context, within time.Duration) (code int, err error) {
	p.ending.Store(true)
	err = until(ctx, within, "the end of "+p.name, func(context.Context) error {
		select {
		case <-p.done:
		default:
			return errors.New("it runs")
		}
		if code = p.cmd.ProcessState.ExitCode(); code <= 0 {
			return &finalError{fmt.Errorf("it ended with %v, want an exit code that is not 0; its log is %s", p.cmd.ProcessState, p.log)}
		}
		return nil
	})
	return code, err
}

// peak is the most memory that the process has had in RAM, in bytes.
func (p *process) peak() (int64, error) {
	text, err := os.ReadFile("/proc/" + strconv.Itoa(p.cmd.Process.Pid) + "/status")
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(text)) {
		if rest, ok := strings.CutPrefix(line, "VmHWM:"); ok {
			kib, err := strconv.ParseInt(strings.TrimSpace(strings.TrimSuffix(strings.TrimSpace(rest), "kB")), 10, 64)
			return kib << 10, err
		}
	}
	return 0, fmt.Errorf("%s has no peak of resident memory in /proc", p.name)
}

var addressLine = regexp.MustCompile(`millrace: API, metrics and health at (http://[0-9.]+:[0-9]+)`)

// address waits until the process has printed where it listens.
func (p *process) address(ctx context.Context) (string, error) {
	if p.addr != "" {
		return p.addr, nil
	}
	err := until(ctx, time.Minute, "the address of "+p.name, func(context.Context) error {
		if err := p.ended(); err != nil {
			return &finalError{err}
		}
		text, err := os.ReadFile(p.log)
		if err != nil {
			return err
		}
		found := addressLine.FindAllSubmatch(text, -1)
		if found == nil {
			return errors.New("it is not printed")
		}
		p.addr = string(found[len(found)-1][1]) // a process of the same name may have used the log before
		return nil
	})
	return p.addr, err
}

// ready waits until the process says that it is ready.
func (p *process) ready(ctx context.Context, within time.Duration) error {
	return until(ctx, within, p.name+" is ready", func(ctx context.Context) error {
		_, err := p.get(ctx, "/-/ready")
		return err
	})
}

func (p *process) get(ctx context.Context, path string) ([]byte, error) {
	address, err := p.address(ctx)
	if err != nil {
		return nil, err
	}
	return get(ctx, address+path)
}

func get(ctx context.Context, url string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, http.NoBody)
	if err != nil {
		return nil, err
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, err
	}
	defer res.Body.Close()
	body, err := io.ReadAll(io.LimitReader(res.Body, 16<<20))
	if err == nil && res.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %s: %s", url, res.Status, body[:min(500, len(body))])
	}
	return body, err
}

// metric sums the series of a metric that have all the labels, each given as name="value".
func (p *process) metric(ctx context.Context, name string, labels ...string) (float64, error) {
	body, err := p.get(ctx, "/metrics")
	if err != nil {
		return 0, fmt.Errorf("reading the metrics of %s: %w", p.name, err)
	}
	return sumMetric(body, name, labels...), nil
}

func sumMetric(exposition []byte, name string, labels ...string) (sum float64) {
lines:
	for lines := bufio.NewScanner(bytes.NewReader(exposition)); lines.Scan(); {
		line := lines.Text()
		rest, ok := strings.CutPrefix(line, name)
		if !ok || (rest[0] != '{' && rest[0] != ' ') {
			continue
		}
		for _, l := range labels {
			if !strings.Contains(rest, l) {
				continue lines
			}
		}
		v, err := strconv.ParseFloat(rest[strings.LastIndexByte(rest, ' ')+1:], 64)
		if err == nil {
			sum += v
		}
	}
	return sum
}
