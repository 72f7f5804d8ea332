package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

const (
	liveScale  = 60
	startTime  = 30 * time.Second // for a server to answer, and for the first ratio
	alertTime  = 90 * time.Second // from the trouble to its alert
	settleTime = 90 * time.Second // from its end until all is quiet: the longest short window of a page is 30 s here
)

// trouble is what is expected of Alertmanager while something is broken.
type trouble struct {
	alert  string            // that is told
	labels map[string]string // that it has
	quiet  []string          // alerts that it keeps quiet
	after  bool              // and that stay quiet after its end, while the group catches up
}

// A destination goes away and comes back. One alert says so, for all topics, with its cause and its runbook, and that the
// group is late is not told besides.
func TestLiveDestinationDown(t *testing.T) {
	t.Parallel()
	f := &fake{group: "millrace-cassandra", topics: fakeTopics}
	liveTest(t, f.serve(t), f.group,
		func() { f.set(true, "sink_down", false) },
		func() { f.set(false, "", false) })
}

// The watcher goes blind while a flow is late: that it is blind is told, and nothing of what it said last.
func TestLiveMonitorBlind(t *testing.T) {
	t.Parallel()
	f := &fake{group: "millrace-lake", topics: fakeTopics}
	live(t, f.serve(t), f.group, trouble{alert: monitorBlind, labels: map[string]string{"severity": page}, quiet: []string{lagBurnsFast, lagBurnsSteadily}},
		func() { f.set(true, "fetch_slow", true) },
		func() { f.set(false, "", false) })
}

// A group is late, its destination is well, and then all is well. That is told once: the windows that remember it longer
// than the first alert lasts say nothing more.
func TestLiveOutage(t *testing.T) {
	t.Parallel()
	f := &fake{group: "billing", topics: fakeTopics[:1]}
	live(t, f.serve(t), f.group, trouble{
		alert: lagBurnsFast, labels: map[string]string{"cluster": "main", "group": "billing", "topic": fakeTopics[0], "severity": page},
		quiet: []string{lagBurnsSteadily}, after: true,
	}, func() { f.set(true, "fetch_slow", false) }, func() { f.set(false, "", false) })
}

// liveTest runs a real Prometheus and a real Alertmanager, with the rules at 1/60 of their windows, on a watcher at
// metricsAddr (host:port) that is healthy; breaks the destination of group, sees the alert come, and go after heal.
func liveTest(t *testing.T, metricsAddr, group string, breakIt, heal func()) {
	t.Helper()
	live(t, metricsAddr, group, trouble{
		alert: destinationDown, labels: map[string]string{"group": group, "cause": "sink_down", "severity": page},
		quiet: []string{lagBurnsFast, lagBurnsSteadily}, after: true,
	}, breakIt, heal)
}

func live(t *testing.T, metricsAddr, group string, want trouble, breakIt, heal func()) {
	t.Helper()
	if _, ok := binary(t, "prometheus"); !ok {
		return
	}
	w := startWorld(t, metricsAddr)
	w.until(t, startTime, "the watcher is seen and nothing alerts", func() error { return w.healthy(group) })
	broken := time.Now()
	breakIt()
	w.until(t, alertTime, want.alert+" arrives and keeps the others quiet", func() error { return w.troubled(want, group) })
	t.Logf("%s after %.1f s", want.alert, time.Since(broken).Seconds())
	w.until(t, alertTime, want.alert+" is told", func() error { return w.told(want.alert, "firing") })
	told := time.Now()
	healed := time.Now()
	heal()
	w.until(t, settleTime, "all is quiet again", func() error {
		// A slow burn is remembered for the six hours of its short window, which are six minutes here: it may stay.
		return w.noneBut(lagBurnsSlowly)
	})
	t.Logf("quiet %.1f s after the end", time.Since(healed).Seconds())
	w.until(t, settleTime, "that it is over is told", func() error { return w.told(want.alert, "resolved") })
	for _, n := range w.heard() {
		t.Logf("%5.1f s: %s is %s", n.at.Sub(broken).Seconds(), n.name, n.status)
		if slices.Contains(want.quiet, n.name) && n.status == "firing" && n.at.After(told) && (want.after || n.at.Before(healed)) {
			t.Errorf("%s was told after %s", n.name, want.alert)
		}
	}
}

// world is the two servers, and who is told by them.
type world struct {
	prometheus, manager string // URLs
	mu                  sync.Mutex
	notes               []note
}

type note struct {
	name, status string
	at           time.Time
}

func startWorld(t *testing.T, metricsAddr string) *world {
	t.Helper()
	w := &world{}
	hook := httptest.NewServer(w)
	t.Cleanup(hook.Close)
	promAddr, managerAddr := freeAddress(t), freeAddress(t)
	w.prometheus, w.manager = "http://"+promAddr, "http://"+managerAddr
	dir := t.TempDir()
	o := defaults()
	o.scale, o.target, o.alertmanager = liveScale, metricsAddr, managerAddr
	if err := write(o, dir); err != nil {
		t.Fatal(err)
	}
	tellHook(t, filepath.Join(dir, "alertmanager.yaml"), hook.URL)
	start(t, w.manager, "prometheus-alertmanager",
		"--config.file="+filepath.Join(dir, "alertmanager.yaml"), "--storage.path="+filepath.Join(dir, "manager"),
		"--web.listen-address="+managerAddr, "--cluster.listen-address=")
	start(t, w.prometheus, "prometheus",
		"--config.file="+filepath.Join(dir, "prometheus.yaml"), "--storage.tsdb.path="+filepath.Join(dir, "data"),
		"--web.listen-address="+promAddr, "--rules.alert.resend-delay=1s")
	return w
}

// tellHook makes the receivers for people, which are empty in what is generated, tell the test.
func tellHook(t *testing.T, path, hook string) {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	changed := string(text)
	for _, name := range []string{page, ticket} {
		line := "  - name: " + name + "\n"
		if strings.Count(changed, line) != 1 {
			t.Fatalf("alertmanager.yaml has no one receiver %s", name)
		}
		changed = strings.Replace(changed, line, line+"    webhook_configs: [{url: '"+hook+"'}]\n", 1)
	}
	if err := os.WriteFile(path, []byte(changed), 0o600); err != nil {
		t.Fatal(err)
	}
}

// ServeHTTP takes Alertmanager's notifications.
func (w *world) ServeHTTP(_ http.ResponseWriter, r *http.Request) {
	var told struct {
		Alerts []struct {
			Status string            `json:"status"`
			Labels map[string]string `json:"labels"`
		} `json:"alerts"`
	}
	if err := json.NewDecoder(r.Body).Decode(&told); err != nil {
		return // told says that nothing came
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, a := range told.Alerts {
		w.notes = append(w.notes, note{a.Labels["alertname"], a.Status, time.Now()})
	}
}

func (w *world) heard() []note {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.notes)
}

func (w *world) told(name, status string) error {
	for _, n := range w.heard() {
		if n.name == name && n.status == status {
			return nil
		}
	}
	return fmt.Errorf("nobody was told that %s is %s, but %v", name, status, w.heard())
}

func freeAddress(t *testing.T) string {
	t.Helper()
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// start runs a server until the end of the test, and waits for it to be ready.
func start(t *testing.T, address, name string, args ...string) {
	t.Helper()
	path, _ := binary(t, name)
	var log bytes.Buffer
	args = append(atHome(path), args...)
	cmd := exec.CommandContext(t.Context(), args[0], args[1:]...) // its end comes with the context's, before the folder goes
	cmd.Stdout, cmd.Stderr = &log, &log
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = 10 * time.Second
	if err := cmd.Start(); err != nil {
		t.Fatalf("starting %s: %v", name, err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = cmd.Wait() // it ends by a signal; before its time it says why itself
	}()
	t.Cleanup(func() { // the context has ended by now
		<-done
		if t.Failed() {
			t.Logf("%s said:\n%s", name, log.String())
		}
	})
	ctx, cancel := context.WithTimeout(t.Context(), startTime)
	defer cancel()
	for {
		err := getJSON(ctx, address+"/-/ready", nil)
		if err == nil {
			return
		}
		select {
		case <-done:
			t.Fatalf("%s ended before it was ready: %v", name, cmd.Args)
		case <-ctx.Done():
			t.Fatalf("%s was not ready after %v: %v", name, startTime, err)
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// atHome is how a program of Debian's is called that is unpacked elsewhere. Alertmanager reads its templates from
// /usr/share, whatever it is told, so it gets a /usr/share of its own where there is nothing of it.
func atHome(path string) []string {
	const templates = "/usr/share/prometheus/alertmanager"
	if _, err := os.Stat(templates); err == nil || filepath.Base(path) != "prometheus-alertmanager" {
		return []string{path}
	}
	unpacked := filepath.Join(filepath.Dir(path), "..", "share", "prometheus", "alertmanager")
	script := `mount -t tmpfs millrace /usr/share && mkdir /usr/share/prometheus && ln -s "$0" ` + templates + ` && exec "$@"`
	return []string{"unshare", "--map-root-user", "--mount", "sh", "-c", script, unpacked, path}
}

func getJSON(ctx context.Context, from string, into any) error {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, from, http.NoBody)
	if err != nil {
		return err
	}
	answer, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	if answer.StatusCode != http.StatusOK {
		return fmt.Errorf("%s answers %s", from, answer.Status)
	}
	if into == nil {
		return nil
	}
	return json.NewDecoder(answer.Body).Decode(into)
}

// until waits for a condition, which says why it does not hold yet.
func (w *world) until(t *testing.T, limit time.Duration, what string, holds func() error) {
	t.Helper()
	end := time.Now().Add(limit)
	for {
		err := holds()
		if err == nil {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("after %v it is not so that %s: %v", limit, what, err)
		}
		time.Sleep(250 * time.Millisecond)
	}
}

// gotAlert is an alert as Alertmanager's API v2 shows it. It shows those that are not resolved.
type gotAlert struct {
	Fingerprint string            `json:"fingerprint"`
	Labels      map[string]string `json:"labels"`
	Annotations map[string]string `json:"annotations"`
	Status      struct {
		State       string   `json:"state"`
		InhibitedBy []string `json:"inhibitedBy"`
	} `json:"status"`
}

func (a gotAlert) name() string { return a.Labels["alertname"] }

func (w *world) alerts() ([]gotAlert, error) {
	var all []gotAlert
	return all, getJSON(context.Background(), w.manager+"/api/v2/alerts", &all)
}

// healthy says whether Prometheus has a ratio of the group, and nothing alerts.
func (w *world) healthy(group string) error {
	var answer struct {
		Data struct {
			Result []any `json:"result"`
		} `json:"data"`
	}
	query := fmt.Sprintf("%s{group=%q} == 0", bad(over1h), group)
	if err := getJSON(context.Background(), w.prometheus+"/api/v1/query?query="+url.QueryEscape(query), &answer); err != nil {
		return err
	}
	if len(answer.Data.Result) == 0 {
		return fmt.Errorf("Prometheus has nothing for %s", query)
	}
	return w.noneBut("")
}

func (w *world) noneBut(one string) error {
	all, err := w.alerts()
	if err != nil {
		return err
	}
	var names []string
	for _, a := range all {
		if a.name() != one {
			names = append(names, a.name()+" "+a.Labels["topic"])
		}
	}
	if len(names) > 0 {
		return fmt.Errorf("these alert: %v", names)
	}
	return nil
}

// troubled says whether the alert is there, once, as it should be, and those that it keeps quiet are there and are quiet.
func (w *world) troubled(want trouble, group string) error {
	all, err := w.alerts()
	if err != nil {
		return err
	}
	var found *gotAlert
	for i := range all {
		if all[i].name() != want.alert {
			continue
		}
		if found != nil {
			return fmt.Errorf("%s is there twice: %v and %v", want.alert, found.Labels, all[i].Labels)
		}
		found = &all[i]
	}
	if found == nil {
		return fmt.Errorf("%s is not there, of %d", want.alert, len(all))
	}
	for k, v := range want.labels {
		if found.Labels[k] != v {
			return fmt.Errorf("%s has %s %q, want %q", want.alert, k, found.Labels[k], v)
		}
	}
	if u := found.Annotations["runbook_url"]; !strings.HasSuffix(u, "/docs/runbooks/"+want.alert+".md") {
		return fmt.Errorf("the runbook of %s is %q", want.alert, u)
	}
	if found.Status.State != "active" {
		return fmt.Errorf("%s is %s", want.alert, found.Status.State)
	}
	for _, name := range want.quiet {
		seen := 0
		for _, a := range all {
			if a.name() != name || a.Labels["group"] != group {
				continue
			}
			seen++
			if a.Status.State != "suppressed" || !slices.Contains(a.Status.InhibitedBy, found.Fingerprint) {
				return fmt.Errorf("%s of %s is %s, inhibited by %v and not by %s", name, a.Labels["topic"], a.Status.State, a.Status.InhibitedBy, want.alert)
			}
		}
		if seen == 0 {
			return fmt.Errorf("%s is not there to be kept quiet", name)
		}
	}
	return nil
}
