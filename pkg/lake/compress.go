package lake

import (
	"fmt"
	"runtime"
	"sync"

	"github.com/klauspost/compress/zstd"
	parquetzstd "github.com/parquet-go/parquet-go/compress/zstd"
)

// compressWindow is how far back a match may lie. A page is rarely larger, and each encoder holds as much twice.
const compressWindow = 512 << 10

// pageCodec compresses pages with encoders that last. Those of parquet-go's codec are in a pool, which each collection of
// garbage empties, and each takes 8 MiB.
type pageCodec struct{ parquetzstd.Codec }

// compression is one for all files.
var compression = &pageCodec{}

var encoder = sync.OnceValues(func() (*zstd.Encoder, error) {
	return zstd.NewWriter(nil, zstd.WithEncoderConcurrency(runtime.GOMAXPROCS(0)), zstd.WithEncoderLevel(zstd.SpeedFastest),
		zstd.WithWindowSize(compressWindow), zstd.WithZeroFrames(true), zstd.WithEncoderCRC(false))
})

// Encode compresses src into dst's memory, or more.
func (*pageCodec) Encode(dst, src []byte) ([]byte, error) {
	e, err := encoder()
	if err != nil {
		return nil, fmt.Errorf("making the compressor: %w", err)
	}
	return e.EncodeAll(src, dst[:0]), nil
}
