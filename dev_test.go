package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/millrace/millrace/pkg/lag"
	"github.com/millrace/millrace/pkg/serve"
)

func startDev(t *testing.T, data string, more ...string) *process {
	t.Helper()
	return start(t, append([]string{"dev", "--data", data, "--listen", "127.0.0.1:0", "--commit", "1s"}, more...)...)
}

func (p *process) hits(t *testing.T, query string, want int) {
	t.Helper()
	eventually(t, "search "+query, func() error {
		var res serve.SearchResult
		if err := p.get(t, "/api/v1/search?"+query, &res); err != nil {
			return err
		}
		if len(res.Hits) != want {
			return fmt.Errorf("%d hits, want %d", len(res.Hits), want)
		}
		return nil
	})
}

func sqlEventually(t *testing.T, data, statement, want string) {
	t.Helper()
	eventually(t, statement, func() error {
		out, errs, code := millrace(t, "", "sql", "--data", data, "--format", "csv", statement)
		if code != 0 || out != want {
			return fmt.Errorf("exit code %d, %q, want %q; %s", code, out, want, errs)
		}
		return nil
	})
}

func publish(t *testing.T, p *process, typeName, records string) {
	t.Helper()
	if out, errs, code := millrace(t, records, "send", typeName, "--addr", p.addr); code != 0 {
		t.Fatalf("send: exit code %d: %s%s", code, out, errs)
	}
}

// TestDev is a new user's first five minutes, and then a restart and a kill.
func TestDev(t *testing.T) {
	t.Parallel()
	data := filepath.Join(t.TempDir(), "data")
	p := startDev(t, data)
	publish(t, p, "log", `{"severity":"ERROR","body":"disk full","service":"billing"}`)
	p.hits(t, "type=log&q=disk&service=billing", 1)
	eventually(t, "this machine's metrics", func() error {
		var res serve.SeriesAnswer
		if err := p.get(t, "/api/v1/series?metric=system.cpu.utilization&from=-5m", &res); err != nil {
			return err
		}
		if len(res.Series) == 0 || len(res.Series[0].Points) == 0 {
			return fmt.Errorf("no points: %+v", res)
		}
		return nil
	})
	sqlEventually(t, data, "select body, severity from log where service='billing'", "body,severity\ndisk full,ERROR\n")
	var answer struct {
		Rows []map[string]string `json:"rows"`
	}
	if err := p.get(t, "/api/v1/sql?q=select+severity+from+log+where+service='billing'", &answer); err != nil || len(answer.Rows) != 1 || answer.Rows[0]["severity"] != "ERROR" {
		t.Errorf("sql over http: %+v, %v", answer, err)
	}
	out, errs, code := millrace(t, "", "report", "capacity", "--data", data, "--format", "csv")
	if code != exitOK || !strings.Contains(out, ",memory,") || !strings.Contains(errs, "metric: valid through 2") {
		t.Errorf("report: exit code %d, %s%s", code, out, errs)
	}
	out, errs, code = millrace(t, "", "lag", "--data", data)
	if code != exitOK || !strings.Contains(out, "millrace-lake") || !strings.Contains(out, "millrace-store") {
		t.Errorf("lag: exit code %d, %s%s", code, out, errs)
	}
	out, errs, code = millrace(t, "", "lag", "--data", data, "--group", "millrace-store", "--json")
	var view lag.View
	if err := json.Unmarshal([]byte(out), &view); err != nil || code != exitOK || len(view.Flows) != 4 || view.Flows[0].Group != "millrace-store" || len(view.Flows[0].Rows) != 6 {
		t.Errorf("lag --json: exit code %d, %v, %s%s", code, err, out, errs)
	}
	if _, errs, code = millrace(t, "", "lag", "--data", data, "--group", "typo"); code != exitFailure || !strings.Contains(errs, "there are: millrace-lake, millrace-store") {
		t.Errorf("lag of a group that is not there: exit code %d, %s", code, errs)
	}
	p.stop(t)
	if !strings.HasSuffix(p.output(), "millrace: drained and stopped\n") {
		t.Errorf("the end is not said in:\n%s", p.output())
	}
	if !strings.Contains(p.output(), "store: produced=") || !strings.Contains(p.output(), "lake: produced=") {
		t.Errorf("no status line for each destination in:\n%s", p.output())
	}

	p = startDev(t, data)
	p.hits(t, "type=log&q=disk&service=billing", 1)
	publish(t, p, "log", `{"severity":"WARN","body":"disk nearly full","service":"billing"}`)
	p.kill(t) // what was acknowledged is in the broker's log, and nowhere else yet

	p = startDev(t, data)
	p.hits(t, "type=log&q=disk&service=billing", 2)
	sqlEventually(t, data, "select count(*) as n, count(distinct id) as ids from log where service='billing'", "n,ids\n2,2\n")
	p.stop(t)
}

// TestDevTypeIsAFile adds a fifth type as one schema file.
func TestDevTypeIsAFile(t *testing.T) {
	t.Parallel()
	data := filepath.Join(t.TempDir(), "data")
	p := startDev(t, data, "--type", "pkg/schema/schematest/network_flow.avsc")
	publish(t, p, "network_flow", flowJSON)
	p.hits(t, "type=network_flow&service=edge", 1)
	sqlEventually(t, data, flowSQL, flowCSV)
	p.stop(t)
}

// TestDevTakesUpANewField changes a type while everything runs.
func TestDevTakesUpANewField(t *testing.T) {
	t.Parallel()
	data := filepath.Join(t.TempDir(), "data")
	file := filepath.Join(t.TempDir(), "flow.avsc")
	first, err := os.ReadFile("pkg/schema/schematest/network_flow.avsc")
	if err != nil {
		t.Fatal(err)
	}
	write := func(schema string) {
		t.Helper()
		if err := os.WriteFile(file, []byte(schema), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write(string(first))
	p := startDev(t, data, "--type", file)
	publish(t, p, "network_flow", flowJSON)
	p.hits(t, "type=network_flow&service=edge", 1)
	_, errs, code := millrace(t, `{"src_ip":"a","dst_ip":"b","dst_port":1,"octets":1,"vlan":7}`, "send", "network_flow", "--addr", p.addr)
	if code != exitFailure || !strings.Contains(errs, "vlan") {
		t.Errorf("a field that nobody knows: exit code %d, %s", code, errs)
	}

	write(strings.Replace(string(first), `{"name": "attributes"`, `{"name": "vlan", "type": ["null", "int"], "default": null}, {"name": "attributes"`, 1))
	out, errs, code := millrace(t, "", "topics", "apply", "--config", filepath.Join(data, devConfigFile), "--server", "registry")
	if code != 0 || !strings.Contains(out, "made registry: subject millrace.network_flow-value") {
		t.Fatalf("topics apply: exit code %d, %s%s", code, out, errs)
	}
	eventually(t, "the new field to be accepted", func() error { // the registry is asked once a second at most
		_, errs, code := millrace(t, `{"service":"edge","src_ip":"192.0.2.3","dst_ip":"b","dst_port":1,"octets":1,"vlan":7}`, "send", "network_flow", "--addr", p.addr)
		if code != exitOK {
			return errors.New(errs)
		}
		return nil
	})
	eventually(t, "the new field in search", func() error {
		var res serve.SearchResult
		if err := p.get(t, "/api/v1/search?type=network_flow&src_ip=192.0.2.3", &res); err != nil {
			return err
		}
		if len(res.Hits) != 1 || !strings.Contains(string(res.Hits[0]), `"vlan":7`) {
			return fmt.Errorf("found %s", res.Hits)
		}
		return nil
	})
	sqlEventually(t, data, "select src_ip, vlan from network_flow where service = 'edge' order by src_ip", "src_ip,vlan\n192.0.2.1,\n192.0.2.3,7\n")
	p.stop(t)
}

// A record of the fifth type, and what it is in SQL.
const (
	flowJSON = `{"service":"edge","src_ip":"192.0.2.1","dst_ip":"192.0.2.2","dst_port":443,"octets":9223372036854775807,` +
		`"established":true,"sampling":0.25,"rtt_ms":1.5,"head":"AAE=","first_seen":"2026-11-21T00:00:00.000001Z","note":"grüße","headers":{"a":"b"}}`
	flowSQL = `select src_ip, dst_port, octets, established, sampling, rtt_ms, octet_length(head) as head, first_seen, blocked, note, headers['a'] as a
		from network_flow where service = 'edge'`
	flowCSV = "src_ip,dst_port,octets,established,sampling,rtt_ms,head,first_seen,blocked,note,a\n" +
		"192.0.2.1,443,9223372036854775807,true,0.25,1.5,2,2026-11-21T00:00:00.000001Z,,grüße,b\n"
)
