package e2e

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/millrace/millrace/pkg/codec"
	"github.com/millrace/millrace/pkg/event"
	"github.com/millrace/millrace/pkg/schema"
	"github.com/millrace/millrace/producers/loadgen"
)

const (
	devBatches   = 9
	devBatchSize = 40
	devService   = "e2e"
)

// `millrace dev` is killed and restarted while records are sent to its gateway. Nothing that it acknowledged is lost,
// nothing doubled, neither in search nor in the lake; an interrupt drains and exits with 0.
func TestDevGoesOnWhereItStopped(t *testing.T) {
	data := t.TempDir()
	w := &world{}
	w.types = builtin(t)
	logs := w.types.Get("log")
	run := func() (*process, string) {
		p := start(t, "dev", "dev", "--data", data, "--listen", "127.0.0.1:0", "--commit", "1s", "--status", "0")
		return p, p.address(t, time.Minute)
	}
	p, address := run()
	sent := journal{logs.Name: {}}
	documents := map[string]any{}
	for batch := range devBatches {
		body := devBatch(t, logs, batch, sent, documents)
		switch batch {
		case devBatches / 3:
			p.kill()
			p, address = run()
		case 2 * devBatches / 3:
			// The answer to this one is not waited for: it may be there or not, and is sent again with the same ids.
			go func(to string) { _ = publish(t.Context(), to, body) }(address)
			p.kill()
			p, address = run()
		}
		eventually(t, time.Minute, "the gateway takes a batch", func(ctx context.Context) error {
			return publish(ctx, address, body)
		})
	}
	eventually(t, time.Minute, "search finds every record", func(ctx context.Context) error {
		return searchIs(ctx, address, documents)
	})
	if err := p.stop(syscall.SIGINT); err != nil {
		t.Fatal(err)
	}
	p, address = run()
	if err := searchIs(t.Context(), address, documents); err != nil {
		t.Errorf("after a restart: %v", err)
	}
	scan := scanLake(t, w.types, "--data", data)
	found, err := find(t.Context(), scan, logs)
	if err != nil {
		t.Fatal(err)
	}
	report(t, sent.judge("lake", logs.Name, found))
	if err := p.stop(syscall.SIGINT); err != nil {
		t.Error(err)
	}
}

func builtin(t *testing.T) *schema.Set {
	t.Helper()
	types, err := schema.Builtin()
	if err != nil {
		t.Fatal(err)
	}
	set, err := schema.NewSet(types...)
	if err != nil {
		t.Fatal(err)
	}
	return set
}

// devBatch makes records as NDJSON, and notes their hashes and documents.
func devBatch(t *testing.T, typ *schema.Type, batch int, sent journal, documents map[string]any) string {
	t.Helper()
	bodies := []string{"", "a line", "zwei\nZeilen\tmit \"Zeichen\" \\", "日本語 🚀 \u0000 \u2028", strings.Repeat("long ", 500)}
	var lines []byte
	for i := range devBatchSize {
		now := time.Now().Truncate(time.Microsecond)
		id := event.NewID(now)
		values := make([]codec.Value, len(typ.Fields))
		for j, f := range typ.Fields {
			switch {
			case f.Kind == schema.Timestamp:
				values[j] = codec.LongValue(now.UnixMicro())
			case f.Kind == schema.UUID:
				values[j] = codec.StringValue(id)
			case f.Name == "service":
				values[j] = codec.StringValue(devService)
			case f.Name == "tenant":
				values[j] = codec.StringValue("default")
			case f.Name == "body":
				values[j] = codec.StringValue(bodies[i%len(bodies)])
			case f.Kind == schema.String && (!f.Nullable || i%2 == 0):
				values[j] = codec.StringValue(strconv.Itoa(batch))
			case f.Kind == schema.Map:
				values[j] = codec.MapValue(map[string]string{"empty": "", "größe": "ß"})
			}
		}
		hash := codec.Fingerprint(typ, values, hashAttribute)
		values[typ.Index("attributes")] = codec.MapValue(map[string]string{"empty": "", "größe": "ß", hashAttribute: hash})
		line := codec.AppendJSON(nil, &codec.Record{Type: typ, Values: values})
		var document any
		if err := json.Unmarshal(line, &document); err != nil {
			t.Fatal(err)
		}
		documents[id] = document
		sent[typ.Name][id] = loadgen.Entry{Type: typ.Name, ID: id, Hash: hash, Outcome: loadgen.OK}
		lines = append(append(lines, line...), '\n')
	}
	return string(lines)
}

func publish(ctx context.Context, address, body string) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, address+"/v1/events/log", strings.NewReader(body))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/x-ndjson")
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	answer, err := io.ReadAll(res.Body)
	if err == nil && res.StatusCode != http.StatusAccepted {
		err = fmt.Errorf("%s: %s", res.Status, answer)
	}
	return err
}

// searchIs wants search to answer exactly these documents.
func searchIs(ctx context.Context, address string, want map[string]any) error {
	query := url.Values{"type": {"log"}, "service": {devService}, "limit": {"1000"}}
	answer, err := get(ctx, address+"/api/v1/search?"+query.Encode())
	if err != nil {
		return err
	}
	var result struct {
		Total int64
		Hits  []map[string]any
	}
	if err := json.Unmarshal(answer, &result); err != nil {
		return err
	}
	if int(result.Total) != len(want) || len(result.Hits) != len(want) {
		return fmt.Errorf("%d hits, %d in all, want %d", len(result.Hits), result.Total, len(want))
	}
	for _, hit := range result.Hits {
		id, _ := hit["id"].(string)
		if diff := cmp.Diff(want[id], any(hit)); diff != "" {
			return errors.New("a hit is not as it was sent (-sent +found):\n" + diff)
		}
	}
	return nil
}
