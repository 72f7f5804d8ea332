package lake

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/iotest"
	"time"
)

// object is an S3 with one, which breaks off as it is told.
type object struct {
	mu      sync.Mutex
	content []byte
	breaks  []int    // after how many bytes each next answer ends; then they are whole
	asked   []string // the ranges
	silent  bool     // instead of breaking off
}

func (o *object) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.content == nil {
		w.WriteHeader(http.StatusNotFound)
		fmt.Fprint(w, "<Error><Code>NoSuchKey</Code><Message>no</Message></Error>")
		return
	}
	o.asked = append(o.asked, strings.TrimPrefix(r.Header.Get("Range"), "bytes="))
	if len(o.breaks) > 0 {
		w = &breaking{ResponseWriter: w, left: o.breaks[0], silent: o.silent, gone: r.Context().Done()}
		o.breaks = o.breaks[1:]
	}
	http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(o.content))
}

type breaking struct {
	http.ResponseWriter
	left   int
	silent bool
	gone   <-chan struct{}
}

func (b *breaking) Write(p []byte) (int, error) {
	n, _ := b.ResponseWriter.Write(p[:min(len(p), b.left)])
	if b.left -= n; n == len(p) {
		return n, nil
	}
	_ = http.NewResponseController(b.ResponseWriter).Flush()
	if b.silent {
		<-b.gone
	}
	panic(http.ErrAbortHandler) //nolint:forbidigo // net/http's way to break an answer off
}

func (o *object) reader(t *testing.T, ctx context.Context, size, from int64) io.ReadCloser { //nolint:revive // t is first in a test
	t.Helper()
	server := httptest.NewServer(o)
	t.Cleanup(server.Close)
	cfg := objects(t, http.StatusOK, "")
	cfg.Storage["s3.endpoint"] = server.URL
	fs := s3FS(t, cfg)
	return &objectReader{ctx: ctx, store: fs.Bucket, file: File{"s3://lake/tables/a", size}, key: "tables/a", at: from}
}

// TestAnObjectIsReadInParts, from any byte on, over answers that break off.
func TestAnObjectIsReadInParts(t *testing.T) {
	content := make([]byte, rangeBytes+1000)
	_, _ = rand.NewChaCha8([32]byte{}).Read(content) // never fails
	for _, c := range []struct {
		from   int64
		breaks []int
		asked  []string
	}{
		{0, nil, []string{"0-16777215", "16777216-16778215"}},
		{rangeBytes + 10, nil, []string{"16777226-16778215"}},
		{rangeBytes + 10, []int{0, 0, 5, 0, 0, 7}, []string{"16777226-16778215", "16777226-16778215", "16777226-16778215", "16777231-16778215", "16777231-16778215", "16777231-16778215", "16777238-16778215"}},
		{int64(len(content)), nil, nil},
	} {
		o := &object{content: content, breaks: c.breaks}
		r := o.reader(t, t.Context(), int64(len(content)), c.from)
		got, err := io.ReadAll(iotest.HalfReader(r))
		if err := errors.Join(err, r.Close()); err != nil || !bytes.Equal(got, content[c.from:]) || !slices.Equal(o.asked, c.asked) {
			t.Errorf("from %d: %d bytes (%v), asked for %v, want %v", c.from, len(got), err, o.asked, c.asked)
		}
	}
}

// TestAnObjectThatIsNotWhatTheTableSays is an error that says which, as is one that never comes.
func TestAnObjectThatIsNotWhatTheTableSays(t *testing.T) {
	for name, c := range map[string]struct {
		object *object
		want   string
	}{
		"gone":            {&object{}, "the file is gone"},
		"shorter":         {&object{content: make([]byte, 99)}, "it has 99 bytes, and 100 in the table's manifest"},
		"longer":          {&object{content: make([]byte, 101)}, "it has 101 bytes"},
		"broken for ever": {&object{content: make([]byte, 100), breaks: slices.Repeat([]int{0}, 9)}, "EOF"},
	} {
		r := c.object.reader(t, t.Context(), 100, 0)
		got, err := io.ReadAll(r)
		if err == nil || len(got) != 0 || !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), "s3://lake/tables/a") {
			t.Errorf("%s: %d bytes, %v", name, len(got), err)
		}
		if err := r.Close(); err != nil {
			t.Error(err)
		}
	}
	o := object{content: make([]byte, 100), breaks: []int{10}, silent: true}
	over := errors.New("the statement took too long")
	ctx, cancel := context.WithCancelCause(t.Context())
	r := o.reader(t, ctx, 100, 0)
	if n, err := io.ReadFull(r, make([]byte, 10)); err != nil {
		t.Fatalf("%d bytes, %v", n, err)
	}
	cancel(over)
	if _, err := r.Read(make([]byte, 90)); !errors.Is(err, over) {
		t.Errorf("after the time of it: %v", err)
	}
}
