package gateway

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/millrace/millrace/pkg/codec"
)

// decoded are the records of a type, as JSON.
func (f *fake) decoded(t *testing.T, typ string) []map[string]any {
	t.Helper()
	var out []map[string]any
	d := f.codec.Decoder(typ)
	for _, r := range f.of("millrace." + typ) {
		rec, err := d.Decode(t.Context(), r)
		if err != nil {
			t.Fatal(err)
		}
		var m map[string]any
		if err := json.Unmarshal(codec.AppendJSON(nil, &rec), &m); err != nil {
			t.Fatal(err)
		}
		out = append(out, m)
	}
	return out
}

// TestTenantReachesTheRecordAndTheBill: what a tenant's bill says is what the records say.
func TestTenantReachesTheRecordAndTheBill(t *testing.T) {
	f := func(fallback, header, body, want, tenants, bills string) {
		t.Helper()
		s, pub, h := setup(t, func(c *Config) { c.DefaultTenant, c.UsageInterval = fallback, time.Hour })
		w, a := post(h, "log", asLines, body, "X-Millrace-Tenant", header)
		if got := brief(w.Code, a); got != want || a.Failed > 0 && a.Results[len(a.Results)-1].Field != "tenant" {
			t.Errorf("%q %q: %s, want %s\n%s", fallback, header, got, want, w.Body)
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if err := s.Run(ctx); err != nil {
			t.Fatal(err)
		}
		var got, billed []string
		for _, r := range pub.decoded(t, "log") {
			got = append(got, fmt.Sprint(r["tenant"]))
		}
		for _, r := range pub.decoded(t, "usage") {
			if r["resource"] == "gateway.records" {
				billed = append(billed, fmt.Sprint(r["tenant"], "=", r["quantity"]))
			}
		}
		slices.Sort(billed)
		if strings.Join(got, ",") != tenants || strings.Join(billed, ",") != bills {
			t.Errorf("%q %q: tenants %q, bills %q; want %q, %q", fallback, header, got, billed, tenants, bills)
		}
	}
	plain, acme, umbrella := `{"body":"x"}`+"\n", `{"body":"x","tenant":"acme"}`+"\n", `{"body":"x","tenant":"umbrella"}`+"\n"
	f("", "acme", plain+acme, "202: 202 202", "acme,acme", "acme=2")
	f("", "acme", plain+umbrella, "207: 202 400", "acme", "acme=1")
	f("acme", "", plain+acme, "202: 202 202", "acme,acme", "acme=2")
	f("acme", "umbrella", plain+umbrella, "202: 202 202", "umbrella,umbrella", "umbrella=2")
	f("acme", "", plain+umbrella, "207: 202 400", "acme", "acme=1")
	f("", "", plain+acme+umbrella+umbrella, "202: 202 202 202 202", ",acme,umbrella,umbrella", "=1,acme=1,umbrella=2")
}

// TestRefusalsBecomePerformanceRecords: also those that no record was read of.
func TestRefusalsBecomePerformanceRecords(t *testing.T) {
	s, pub, h := setup(t, func(c *Config) { c.TenantRate, c.TenantBurst = 0.001, 1 })
	post(h, "nosuch", asJSON, `{}`)
	post(h, "log", asJSON, `{"body":"x"}`, "X-Millrace-Tenant", "acme")
	post(h, "log", asJSON, `{"body":"x"}`, "X-Millrace-Tenant", "acme")
	post(h, "log", asJSON, `{"body":"x"}`, "X-Millrace-Tenant", "a b")
	pub.down = errors.New("no registry")
	post(h, "log", asJSON, `{"body":"x"}`)
	pub.down = nil
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := s.Run(ctx); err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, r := range pub.decoded(t, "performance") {
		got = append(got, fmt.Sprint(r["operation"], " ", r["status"], " ", r["ok"], " ", r["tenant"]))
	}
	want := "POST /v1/events/{type} 404 false ,POST /v1/events/log 202 true acme,POST /v1/events/{type} 429 false acme," +
		"POST /v1/events/{type} 400 false ,POST /v1/events/{type} 503 false "
	if strings.Join(got, ",") != want {
		t.Errorf("%q\nwant %q", got, want)
	}
}

// TestRefusalReachesAClientThatWritesFirst sends a body far over the bound, and reads only when all of it is written.
func TestRefusalReachesAClientThatWritesFirst(t *testing.T) {
	_, _, h := setup(t, nil)
	srv := httptest.NewServer(h)
	defer srv.Close()
	for _, path := range []string{"log", "nosuch"} {
		var d net.Dialer
		conn, err := d.DialContext(t.Context(), "tcp", srv.Listener.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		const size = 24 << 20
		_, err = fmt.Fprintf(conn, "POST /v1/events/%s HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n", path, size)
		block := bytes.Repeat([]byte(" "), 1<<20)
		for sent := 0; sent < size && err == nil; sent += len(block) {
			_, err = conn.Write(block)
		}
		if err != nil {
			t.Fatalf("%s: writing: %v", path, err)
		}
		resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
		if err != nil {
			t.Fatalf("%s: reading: %v", path, err)
		}
		if want := map[string]int{"log": 413, "nosuch": 404}[path]; resp.StatusCode != want {
			t.Errorf("%s: %d, want %d", path, resp.StatusCode, want)
		}
		_ = resp.Body.Close()
		_ = conn.Close()
	}
}
