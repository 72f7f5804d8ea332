package lake

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/url"

	iceio "github.com/apache/iceberg-go/io"
	"github.com/apache/iceberg-go/io/gocloud/blobfs"
	"github.com/apache/iceberg-go/table"
	"gocloud.dev/blob"
	"gocloud.dev/gcerrors"
)

// File is a data file of a State.
type File struct {
	Location string // as the table has it
	Bytes    int64
}

// Local gives the path of a file, or a folder, that is on this machine's disk.
func (f File) Local() (string, bool) {
	path, _ := localPath(f.Location)
	return path, schemeOf(path) == ""
}

const (
	// rangeBytes is what one request reads: over a slow line, too, it comes within requestTimeout.
	rangeBytes = 16 << 20
	// rangeTries is how many answers in a row may end without a byte.
	rangeTries = 3
)

// extractor finds objects in the bucket that the table's metadata is in: iceberg-go's storage is that one.
func (s *State) extractor() (blobfs.ObjectLocationExtractor, error) {
	home, err := url.Parse(s.ice.MetadataLocation())
	if err != nil {
		return nil, fmt.Errorf("reading the location of table %s: %w", s.name, err)
	}
	return blobfs.DefaultObjectLocationExtractor(home.Host), nil
}

// bounded is the table on storage that obeys the context it is opened under. As catalogs give it, it obeys none.
func (s *State) bounded() *table.Table {
	open := func(ctx context.Context) (iceio.IO, error) {
		fs, err := s.ice.FS(ctx)
		store, remote := fs.(bucket)
		if err != nil || !remote {
			return fs, err
		}
		extract, err := s.extractor()
		if err != nil {
			return nil, err
		}
		return blobfs.New(ctx, store.Bucket, extract), nil
	}
	return table.New(s.ice.Identifier(), s.ice.Metadata(), s.ice.MetadataLocation(), open, nil)
}

// Open reads a data file that is on an object store, from its n-th byte on. What it gives obeys ctx, has a deadline for
// each request, and goes on where an answer has broken off.
func (s *State) Open(ctx context.Context, f File, n int64) (io.ReadCloser, error) {
	fs, err := s.ice.FS(ctx)
	if err != nil {
		return nil, fmt.Errorf("opening storage of table %s: %w", s.name, err)
	}
	store, ok := fs.(bucket)
	if !ok {
		return nil, fmt.Errorf("reading %s: the storage of table %s is a %T, and no object store", f.Location, s.name, fs)
	}
	extract, err := s.extractor()
	if err != nil {
		return nil, err
	}
	object, err := extract(f.Location)
	if err != nil {
		return nil, fmt.Errorf("reading %s: %w: a table has its data where its metadata is", f.Location, err)
	}
	return &objectReader{ctx: ctx, store: store.Bucket, file: f, key: object.Key(), at: n}, nil
}

// objectReader reads an object request by request.
type objectReader struct {
	ctx   context.Context //nolint:containedctx // it is for what is read of it, as that of an http.Request
	store *blob.Bucket
	file  File
	key   string

	at         int64        // where the file is read
	answer     *blob.Reader // nil: there is none at hand
	begin, end int64        // of the answer
	empty      int          // answers in a row that ended without a byte
}

// Read implements io.Reader.
func (r *objectReader) Read(p []byte) (int, error) {
	for r.at < r.file.Bytes {
		if err := r.ask(); err != nil {
			return 0, fmt.Errorf("reading %s: %w", r.file.Location, err)
		}
		n, err := r.answer.Read(p[:min(int64(len(p)), r.end-r.at)])
		r.at += int64(n)
		if err != nil || r.at == r.end {
			err = r.done(err)
		}
		if n > 0 || len(p) == 0 {
			return n, nil
		}
		if err != nil {
			return 0, fmt.Errorf("reading %s: %w", r.file.Location, err)
		}
	}
	return 0, io.EOF
}

// ask has an answer at hand.
func (r *objectReader) ask() error {
	if r.answer != nil {
		return nil
	}
	answer, err := r.store.NewRangeReader(r.ctx, r.key, r.at, min(rangeBytes, r.file.Bytes-r.at), nil)
	switch {
	case r.ctx.Err() != nil:
		err = context.Cause(r.ctx)
	case gcerrors.Code(err) == gcerrors.NotFound:
		err = fmt.Errorf("the file is gone, as when the state it is of was expired and its orphans were removed while it was read: %w", err)
	case err == nil && answer.Size() != r.file.Bytes:
		err = fmt.Errorf("it has %d bytes, and %d in the table's manifest: it was overwritten, or cut off", answer.Size(), r.file.Bytes)
	}
	if err != nil && answer != nil {
		return errors.Join(err, answer.Close())
	}
	r.answer, r.begin, r.end = answer, r.at, min(r.at+rangeBytes, r.file.Bytes)
	return err
}

// done closes the answer at hand. It is an error where no more are to be asked for.
func (r *objectReader) done(err error) error {
	_ = r.answer.Close() // what was read of it is read
	r.answer = nil
	if r.ctx.Err() != nil {
		return context.Cause(r.ctx)
	}
	if r.at == r.end {
		return nil
	}
	if errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	if r.at > r.begin {
		r.empty = 0
		return nil
	}
	if r.empty++; r.empty >= rangeTries {
		return err
	}
	return nil
}

// Close implements io.Closer.
func (r *objectReader) Close() error {
	if r.answer == nil {
		return nil
	}
	return r.answer.Close()
}
