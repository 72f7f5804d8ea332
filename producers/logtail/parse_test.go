package logtail

import (
	"maps"
	"regexp"
	"strings"
	"testing"
	"time"
	"unicode/utf8"
)

func TestParse(t *testing.T) {
	read := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	vienna := time.FixedZone("", 3600)
	at := func(s string) time.Time {
		out, err := time.Parse(time.RFC3339Nano, s)
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	f := func(in string, want entry) {
		t.Helper()
		got := parse(formatAuto, in, read, vienna)
		same := got.time.Equal(want.time) && maps.Equal(got.attrs, want.attrs)
		got.time, want.time, got.attrs, want.attrs = time.Time{}, time.Time{}, nil, nil
		if !same || got.severity != want.severity || got.body != want.body || got.service != want.service ||
			got.traceID != want.traceID || got.spanID != want.spanID {
			t.Errorf("%s\n got %+v\nwant %+v", in, parse(formatAuto, in, read, vienna), want)
		}
	}
	type attrs = map[string]string

	// RFC 3164, with and without priority; the year is the nearest that is not in the future.
	f("Feb 28 23:59:59 web1 sshd[42]: Accepted key", entry{
		time: at("2026-02-28T23:59:59+01:00"), body: "Accepted key", service: "sshd",
		attrs: attrs{"syslog.hostname": "web1", "process.pid": "42"},
	})
	f("<34>Dec  1 10:00:00 web1 su: 'su root' failed", entry{
		time: at("2025-12-01T10:00:00+01:00"), severity: "FATAL", body: "'su root' failed", service: "su",
		attrs: attrs{"syslog.hostname": "web1", "syslog.facility": "4"},
	})
	f("Feb 29 01:02:03 h p: leap day", entry{
		time: at("2024-02-29T01:02:03+01:00"), body: "leap day", service: "p", attrs: attrs{"syslog.hostname": "h"},
	})
	// What rsyslog writes today.
	f("2026-02-28T23:59:59.123456+00:00 web1 systemd[1]: ERROR in unit", entry{
		time: at("2026-02-28T23:59:59.123456Z"), severity: "ERROR", body: "ERROR in unit", service: "systemd",
		attrs: attrs{"syslog.hostname": "web1", "process.pid": "1"},
	})
	// RFC 5424.
	f(`<165>1 2026-03-01T10:00:00.5Z web1 app 7 ID47 [x@1 a="b \"c\" \]" d=""][y@1 e="f"] it works`, entry{
		time: at("2026-03-01T10:00:00.5Z"), severity: "INFO", body: "it works", service: "app",
		attrs: attrs{
			"syslog.hostname": "web1", "process.pid": "7", "syslog.msgid": "ID47", "syslog.facility": "20",
			"x@1.a": `b "c" ]`, "y@1.e": "f",
		},
	})
	f("<14>1 - - - - - -", entry{severity: "INFO", attrs: attrs{"syslog.facility": "1"}})
	// JSON.
	f(`{"time":"2026-03-01T10:00:00Z","level":"warning","msg":"slow","took":1.50,"ok":true,"no":null,"in":{"a":[1, 2]},"trace_id":"t1","span_id":"s1","service":"shop"}`, entry{
		time: at("2026-03-01T10:00:00Z"), severity: "WARN", body: "slow", service: "shop", traceID: "t1", spanID: "s1",
		attrs: attrs{"took": "1.50", "ok": "true", "in": `{"a":[1,2]}`},
	})
	f(`{"ts":1772359200.25,"level":50,"message":"x"}`, entry{time: at("2026-03-01T10:00:00.25Z"), severity: "ERROR", body: "x"})
	f(`{"ts":1772359200123,"lvl":"odd","body":"x"}`, entry{time: at("2026-03-01T10:00:00.123Z"), severity: "odd", body: "x"})
	f(`{"a":"b"}`, entry{body: `{"a":"b"}`, attrs: attrs{"a": "b"}})
	f(`{"a":`, entry{body: `{"a":`})
	// Plain lines.
	f("2025-06-24 14:36:25 startup archives unpack", entry{
		time: at("2025-06-24T14:36:25+01:00"), body: "2025-06-24 14:36:25 startup archives unpack",
	})
	f("update-alternatives 2025-06-24 14:36:53: link group", entry{
		time: at("2025-06-24T14:36:53+01:00"), body: "update-alternatives 2025-06-24 14:36:53: link group",
	})
	f("2026-03-01 10:00:00.123 UTC [99] ERROR:  relation", entry{
		time: at("2026-03-01T10:00:00.123Z"), severity: "ERROR", body: "2026-03-01 10:00:00.123 UTC [99] ERROR:  relation",
	})
	f("2026-03-01T10:00:00Z WARN server: slow", entry{
		time: at("2026-03-01T10:00:00Z"), severity: "WARN", body: "2026-03-01T10:00:00Z WARN server: slow",
	})
	f(`1.2.3.4 - - [01/Mar/2026:10:00:00 +0000] "GET / HTTP/1.1" 200 5`, entry{
		time: at("2026-03-01T10:00:00Z"), body: `1.2.3.4 - - [01/Mar/2026:10:00:00 +0000] "GET / HTTP/1.1" 200 5`,
	})
	f("2026/03/01 10:00:00 [error] 7#7: open() failed", entry{
		time: at("2026-03-01T10:00:00+01:00"), severity: "ERROR", body: "2026/03/01 10:00:00 [error] 7#7: open() failed",
	})
	f("the error was an Error", entry{body: "the error was an Error"})
	f("2026-13-01 10:00:00 no month", entry{body: "2026-13-01 10:00:00 no month"})
	f("2026-02-30 10:00:00 no day", entry{body: "2026-02-30 10:00:00 no day"})
	f("level=warn msg=x", entry{severity: "WARN", body: "level=warn msg=x"})
}

func FuzzParse(f *testing.F) {
	for _, s := range []string{
		`{"time":"x","level":5,"msg":"é","n":{"a":1}}`, "<34>1 2026-01-01T00:00:00Z h a p m [i x=\"y\"] msg",
		"<13>Jan  2 03:04:05 h p[1]: m", "2026-01-01T00:00:00.1+01:00 h p: m", "2026-01-01 00:00:00,123 ERROR x", "[[[", "<1>",
	} {
		f.Add([]byte(s))
	}
	read := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	f.Fuzz(func(t *testing.T, b []byte) {
		text, _ := clean(b)
		if !utf8.ValidString(text) || strings.ContainsRune(text, 0) {
			t.Fatalf("clean left %q", text)
		}
		for _, format := range []string{formatAuto, formatPlain, formatJSON, formatSyslog} {
			e, again := parse(format, text, read, time.UTC), parse(format, text, read, time.UTC)
			if e.body != again.body || !e.time.Equal(again.time) || !maps.Equal(e.attrs, again.attrs) || e.service != again.service {
				t.Errorf("%s of %q differs from one time to the next", format, text)
			}
			for _, s := range []string{e.body, e.service, e.severity, e.traceID, e.spanID} {
				if !utf8.ValidString(s) {
					t.Errorf("%s of %q gives %q", format, text, s)
				}
			}
			for k, v := range e.attrs {
				if !utf8.ValidString(k) || !utf8.ValidString(v) {
					t.Errorf("%s of %q gives %q=%q", format, text, k, v)
				}
			}
		}
	})
}

// FuzzSplit holds the rules that ids rest on: nothing is lost, no event is too long, no character is cut, and what was
// taken is split the same way again on its own.
func FuzzSplit(f *testing.F) {
	f.Add([]byte("one\ntwo\n\nthree"), true, false, 10, false)
	f.Add([]byte("2026 a\n b\n c\n2026 d"), false, true, 40, true)
	f.Add([]byte("ä€𝄞ä€𝄞ä€𝄞ä€𝄞ä€𝄞ä€𝄞ä€𝄞\n"), true, true, 8, false)
	start := regexp.MustCompile(`^\d`)
	f.Fuzz(func(t *testing.T, data []byte, mid, final bool, most int, multi bool) {
		most = 8 + max(most, 0)%100
		var re *regexp.Regexp
		if multi {
			re = start
		}
		pieces, used, endMid := split(data, re, most, mid, final)
		if final && used != len(data) {
			t.Fatalf("took %d of %d", used, len(data))
		}
		if !final && len(data) >= 4*most && used == 0 {
			t.Fatal("no progress")
		}
		at := 0
		for _, p := range pieces {
			if p.start != at || p.end <= p.start || p.end-p.start > most {
				t.Fatalf("piece %+v after %d", p, at)
			}
			at = p.end
			if p.unended && p.end < len(data) && utf8.Valid(data) && !utf8.RuneStart(data[p.end]) {
				t.Errorf("a character is cut at %d", p.end)
			}
		}
		if at != used {
			t.Fatalf("pieces end at %d, taken %d", at, used)
		}
		again, _, againMid := split(data[:used], re, most, mid, true)
		if len(again) != len(pieces) || againMid != endMid {
			t.Fatalf("again %+v, before %+v", again, pieces)
		}
		for i := range again {
			if again[i] != pieces[i] {
				t.Fatalf("again %+v, before %+v", again, pieces)
			}
		}
	})
}

func TestIsBinary(t *testing.T) {
	for text, want := range map[string]bool{
		"plain\n": false, "gr\xfc\xdfe aus latin-1\n": false, "€€€\xe2\x82": false, "\x1b[31mred\x1b[0m": false,
		"a\x00b": true, "\x1f\x8b\x08": true, "\xfd7zXZ\x00": true, "\x01\x02\x03\x04\xff\xfe": true,
	} {
		if got := isBinary([]byte(text)); got != want {
			t.Errorf("%q: %v", text, got)
		}
	}
}

func TestConfigNamesEveryMistake(t *testing.T) {
	if err := Default().Validate(); err != nil {
		t.Error(err)
	}
	bad := Config{Inputs: []Input{{Format: "xml", Multiline: "("}}, Exclude: []string{"["}, Timezone: "Nowhere/Town", MaxAhead: -1, Drain: -1}
	err := bad.Validate()
	for _, key := range []string{
		"inputs[0].paths", "inputs[0].format", "inputs[0].multiline", "exclude", "state", "poll", "max_event", "max_unacked",
		"max_open", "idle", "rotated", "forget", "max_age", "max_ahead", "timezone", "drain",
	} {
		if err == nil || !strings.Contains(err.Error(), "logtail."+key) {
			t.Errorf("%s is not named in: %v", key, err)
		}
	}
	if err := (Config{}).Validate(); err == nil || !strings.Contains(err.Error(), "logtail.inputs is empty") {
		t.Errorf("no inputs: %v", err)
	}
}
