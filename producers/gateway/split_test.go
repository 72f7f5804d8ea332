package gateway

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"testing/iotest"
)

// pieces reads everything: records as they are, their errors as "!status", and at last the body's error.
func pieces(body string, lines bool, limit int, oneByte bool) (out []string, stop error) {
	var r io.Reader = strings.NewReader(body)
	if oneByte {
		r = iotest.OneByteReader(r)
	}
	sp := newSplitter(r, lines, limit)
	for {
		raw, err := sp.next()
		var re *recordError
		switch {
		case err == nil:
			out = append(out, string(raw))
		case errors.As(err, &re):
			out = append(out, fmt.Sprint("!", re.status))
		case errors.Is(err, io.EOF):
			return out, nil
		default:
			return out, err
		}
	}
}

func TestSplit(t *testing.T) {
	f := func(lines bool, body, want, stop string) {
		t.Helper()
		for _, oneByte := range []bool{false, true} {
			out, err := pieces(body, lines, 20, oneByte)
			if got := strings.Join(out, "|"); got != want || fmt.Sprint(err) != stop {
				t.Errorf("%q: %q, %v; want %q, %v", body, got, err, want, stop)
			}
		}
	}
	const (
		none   = "<nil>"
		early  = "the body ends too early"
		match  = "brackets do not match"
		hole   = "the array has an empty element"
		after  = "there is more after the JSON array"
		neithr = "the body is neither a JSON object nor an array of objects"
	)
	f(false, `{"a":1}`, `{"a":1}`, none)
	f(false, " \n{\"a\":1}\n ", `{"a":1}`, none)
	f(false, `[]`, ``, none)
	f(false, ` [ { } , {"a":[1,{"b":"]},"}]}] `, `{ }|{"a":[1,{"b":"]},"}]}`[:len(`{ }|`)]+`!413`, none)
	f(false, `[{"a":"],"},{"b":2}]`, `{"a":"],"}|{"b":2}`, none)
	f(false, `[{"a":"\"]"}]`, `{"a":"\"]"}`, none)
	f(false, `[{"a":"\\"},{}]`, `{"a":"\\"}|{}`, none)
	f(false, `[1,"x",[{}],null,{}]`, `!400|!400|!400|!400|{}`, none)
	f(false, `[{"a":"123456789012345678901234567890"},{"b":1}]`, `!413|{"b":1}`, none)
	f(false, `[{},`, `{}`, early)
	f(false, `[{}`, ``, early)
	f(false, `[{"a":"`, ``, early)
	f(false, `[`, ``, early)
	f(false, `{"a":1`, ``, early)
	f(false, `[{},]`, `{}`, hole)
	f(false, `[,{}]`, ``, hole)
	f(false, `[{]}]`, ``, match)
	f(false, `[{}}]`, ``, match)
	f(false, `[{}] x`, ``, after)
	f(false, `[] []`, ``, after)
	f(false, `x`, ``, neithr)
	f(false, `"x"`, ``, neithr)
	f(false, ``, ``, "the body is empty: send a JSON object or an array of objects")
	f(false, `{},{}`, ``, "there is more after the JSON object; records one per line are application/x-ndjson")
	f(false, strings.Repeat("[", 99), ``, "a record nests deeper than 64 levels")

	f(true, "{\"a\":1}\n{\"b\":2}\n", `{"a":1}|{"b":2}`, none)
	f(true, "{\"a\":1}\r\n\r\n  {\"b\":2}", `{"a":1}|{"b":2}`, none)
	f(true, "", ``, "the body is empty: send a JSON object per line")
	f(true, "\n\n", ``, "the body is empty: send a JSON object per line")
	const bom = "\xef\xbb\xbf"
	f(true, bom+"{}\n{}\n", `{}|{}`, none)
	f(true, bom, ``, "the body is empty: send a JSON object per line")
	f(false, bom+" {}", `{}`, none)
	f(false, bom+"[{},{}]", `{}|{}`, none)
	f(false, "\xef\xbb{}", ``, neithr)
	f(true, "nonsense\n{}\n[]\n", `!400|{}|!400`, none)
	f(true, "{}\n"+strings.Repeat("x", 100_000)+"\n{}", `{}|!413|{}`, none)
	f(true, `{"a":"12345678901"}`+"\r\n", `{"a":"12345678901"}`, none)
	f(true, `{"a":"1234567890123"}`+"\n{}", `!413|{}`, none)
}

// FuzzSplit holds the splitter against encoding/json: what that accepts as an array of objects comes out element by
// element, and nothing makes it run away.
func FuzzSplit(f *testing.F) {
	for _, s := range []string{`[{"a":1},{"b":[{}]}]`, "{}\n{}\n", `{"a":"\"]"}`, `[`, `[{},]`, "\x00", `[{"a":"` + "\xff" + `"}]`} {
		f.Add(s, true)
		f.Add(s, false)
	}
	f.Fuzz(func(t *testing.T, body string, lines bool) {
		out, err := pieces(body, lines, 1<<20, false)
		slow, slowErr := pieces(body, lines, 1<<20, true)
		if fmt.Sprint(out, err) != fmt.Sprint(slow, slowErr) {
			t.Fatalf("%q, %v in one piece, %q, %v byte by byte", out, err, slow, slowErr)
		}
		var want []json.RawMessage
		if lines || json.Unmarshal([]byte(body), &want) != nil || want == nil || strings.Count(body, "[") > maxDepth {
			return
		}
		if err != nil || len(out) != len(want) {
			t.Fatalf("%q gave %q, %v; encoding/json gives %d elements", body, out, err, len(want))
		}
		for i, w := range want {
			isObject := w[0] == '{'
			if isObject && out[i] != string(trim(w)) || !isObject && out[i] != "!400" {
				t.Fatalf("element %d is %q, encoding/json gives %q", i, out[i], w)
			}
		}
	})
}
