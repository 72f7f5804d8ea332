package gateway

import (
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"os"
	"strings"
	"time"

	"github.com/klauspost/compress/zstd"
)

// maxZstdWindow bounds what a zstd frame may ask a decoder to keep; what the encoder of every common tool stays under
// unless it is told otherwise.
const maxZstdWindow = 8 << 20

// body opens a request's records: content type, then content encoding, each within its bound. The closer is to be
// called when the request is done with.
func (s *Server) body(w http.ResponseWriter, r *http.Request) (*splitter, func(), error) {
	lines, err := contentType(r.Header.Get("Content-Type"))
	if err != nil {
		return nil, nil, err
	}
	if r.ContentLength > int64(s.cfg.MaxCompressed) {
		return nil, nil, &bodyError{413, fmt.Sprintf("the body is longer than %d bytes", s.cfg.MaxCompressed)}
	}
	raw := http.MaxBytesReader(w, r.Body, int64(s.cfg.MaxCompressed))
	plain, closer, err := decompress(strings.ToLower(strings.TrimSpace(r.Header.Get("Content-Encoding"))), raw)
	if err != nil {
		return nil, nil, err
	}
	bounded := &boundedReader{r: plain, left: int64(s.cfg.MaxBody), max: int64(s.cfg.MaxBody)}
	return newSplitter(bounded, lines, int(s.cfg.MaxRecord)), closer, nil
}

func contentType(header string) (lines bool, err error) {
	mt, params, err := mime.ParseMediaType(header)
	if cs := params["charset"]; err != nil || (cs != "" && !strings.EqualFold(cs, "utf-8")) {
		mt = ""
	}
	switch mt {
	case "application/json":
		return false, nil
	case "application/x-ndjson":
		return true, nil
	default:
		return false, &bodyError{415, "the content type is not one of application/json and application/x-ndjson, in UTF-8"}
	}
}

func decompress(encoding string, raw io.Reader) (io.Reader, func(), error) {
	switch encoding {
	case "", "identity":
		return raw, func() {}, nil
	case "gzip":
		z, err := gzip.NewReader(raw)
		switch {
		case errors.Is(err, io.EOF):
			return nil, nil, &bodyError{400, "the body is empty"}
		case errors.Is(err, gzip.ErrHeader), errors.Is(err, io.ErrUnexpectedEOF):
			return nil, nil, &bodyError{400, "the body is not gzip, although Content-Encoding says so"}
		case err != nil:
			return nil, nil, readError(err)
		}
		return z, func() { _ = z.Close() }, nil
	case "zstd":
		z, err := zstd.NewReader(raw, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true),
			zstd.WithDecoderMaxWindow(maxZstdWindow))
		if err != nil {
			return nil, nil, readError(err)
		}
		return z, z.Close, nil
	default:
		return nil, nil, &bodyError{415, "the content encoding is not one of gzip and zstd"}
	}
}

// boundedReader ends a body that is too long with an error, not with EOF: a cut record must not look complete.
type boundedReader struct {
	r         io.Reader
	left, max int64
}

func (b *boundedReader) Read(p []byte) (int, error) {
	if b.left < 0 {
		return 0, &bodyError{413, fmt.Sprintf("the body is longer than %d bytes after decompression", b.max)}
	}
	if int64(len(p)) > b.left+1 {
		p = p[:b.left+1]
	}
	n, err := b.r.Read(p)
	if b.left -= int64(n); b.left < 0 {
		// One byte more than allowed was there.
		return n - 1, &bodyError{413, fmt.Sprintf("the body is longer than %d bytes after decompression", b.max)}
	}
	return n, err
}

// A client that writes its whole body before it reads would see a broken connection, and not why, if it were closed
// at once. So what is left of a refused body is read and thrown away, within these bounds.
const (
	drainBytes = 128 << 20
	drainTime  = 5 * time.Second
)

// drainBody takes in what is left of the body of a request that was answered. A client that asked first whether to send
// it (Expect: 100-continue) reads the answer.
func drainBody(w http.ResponseWriter, r *http.Request) {
	if r.Header.Get("Expect") != "" {
		return
	}
	rc := http.NewResponseController(w)
	_ = rc.Flush()                                    // the answer first: a client that reads meanwhile stops sending
	_ = rc.SetReadDeadline(time.Now().Add(drainTime)) // a connection that has none is no network's
	_, _ = io.CopyN(io.Discard, r.Body, drainBytes)   // its end, however it comes
}

// readError says in HTTP's words why a body could not be read.
func readError(err error) *bodyError {
	var be *bodyError
	var mbe *http.MaxBytesError
	switch {
	case errors.As(err, &be):
		return be
	case errors.As(err, &mbe):
		return &bodyError{413, fmt.Sprintf("the body is longer than %d bytes", mbe.Limit)}
	case errors.Is(err, os.ErrDeadlineExceeded):
		return &bodyError{408, "the body did not arrive in time"}
	case errors.Is(err, zstd.ErrWindowSizeExceeded), errors.Is(err, zstd.ErrDecoderSizeExceeded):
		return &bodyError{413, "the zstd frame asks for too large a window"}
	case errors.Is(err, zstd.ErrMagicMismatch):
		return &bodyError{400, "the body is not zstd, although Content-Encoding says so"}
	default:
		return &bodyError{400, "the body cannot be read: " + err.Error()}
	}
}
