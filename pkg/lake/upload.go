package lake

import (
	"context"

	iceio "github.com/apache/iceberg-go/io"
	"github.com/apache/iceberg-go/io/gocloud/blobfs"
	"gocloud.dev/blob"
)

const (
	// maxUploads bounds a Writer's files that are open on an object store at once. Each has up to some 30 MiB of parts in
	// memory: 16 MiB that are read before it is known whether there will be parts, and those under way.
	maxUploads  = 4
	partBytes   = 5 << 20 // the smallest that S3 takes
	partsAtOnce = 2
)

// blobs is storage on an object store. A file appears there whole, as it is closed, or not at all.
type blobs interface {
	NewWriter(ctx context.Context, path string, overwrite bool, opts *blob.WriterOptions) (*blobfs.Writer, error)
}

type createFunc func(name string) (iceio.FileWriter, error)

func (f createFunc) Create(name string) (iceio.FileWriter, error) { return f(name) }

// uploads gives what makes a Writer's files and, for an object store, what breaks off the uploads under way: closing one
// would complete it. They go on after the call that began them, whose context is not theirs.
func uploads(ctx context.Context, fs iceio.WriteFileIO) (_ creator, remote bool, stop func()) {
	store, ok := fs.(blobs)
	if !ok {
		return fs, false, func() {}
	}
	ctx, stop = context.WithCancel(context.WithoutCancel(ctx))
	return createFunc(func(name string) (iceio.FileWriter, error) {
		return store.NewWriter(ctx, name, true, &blob.WriterOptions{BufferSize: partBytes, MaxConcurrency: partsAtOnce})
	}), true, stop
}

// makeRoom finishes a file where as many uploads are open as may be. Rows of its table partition that come later are in
// another.
func (w *Writer) makeRoom() error {
	if !w.remote {
		return nil
	}
	open, oldest := 0, int64(0)
	for q, part := range w.open {
		if part.file == nil {
			continue
		}
		if open == 0 || q < oldest {
			oldest = q
		}
		open++
	}
	if open < maxUploads {
		return nil
	}
	return w.finishFile(oldest, w.open[oldest])
}
