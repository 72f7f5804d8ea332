package lag

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// A file holds the frames of one hour: a length and a CRC-32C (little-endian, 4 bytes each) before each. They are not
// synced: what a crash of the machine takes is some seconds of history. What is torn or damaged ends the file.
const (
	fileSuffix  = ".lag"
	frameHeader = 8
	maxFrame    = 64 << 20
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// historyFile is the one of the current hour.
type historyFile struct {
	dir  string
	hour int64
	f    *os.File
	ids  map[subject]uint64
	buf  []byte
	// A point is its difference from the one before: after one that did not reach the file none of that hour may.
	broken int64
}

// openHistory reads the files of the last 24 hours in a directory, makes it where there is none, and removes what is older.
func openHistory(dir string, now interface{ UnixMilli() int64 }, fn func(s subject, at int64, b []byte) error) (*historyFile, error) {
	if err := os.MkdirAll(dir, 0o750); err != nil {
		return nil, fmt.Errorf("making the directory: %w", err)
	}
	h := &historyFile{dir: dir}
	hours, err := h.hours()
	if err != nil {
		return nil, err
	}
	current := hourOf(now.UnixMilli())
	for _, hour := range hours {
		path := h.path(hour)
		if hour < current-int64(keepHistory.Hours()) {
			if err := os.Remove(path); err != nil {
				return nil, fmt.Errorf("removing what is past: %w", err)
			}
			continue
		}
		ids, good, err := replay(path, fn)
		if err != nil {
			return nil, err
		}
		if hour != current {
			continue
		}
		// Go on after what is whole.
		if err := os.Truncate(path, good); err != nil {
			return nil, fmt.Errorf("cutting off what is torn: %w", err)
		}
		if err := h.begin(hour, ids); err != nil {
			return nil, err
		}
	}
	return h, nil
}

func (h *historyFile) path(hour int64) string {
	return filepath.Join(h.dir, strconv.FormatInt(hour, 10)+fileSuffix)
}

// hours are those that there are files of, oldest first.
func (h *historyFile) hours() ([]int64, error) {
	all, err := os.ReadDir(h.dir)
	if err != nil {
		return nil, fmt.Errorf("reading the directory: %w", err)
	}
	var out []int64
	for _, e := range all {
		name, ok := strings.CutSuffix(e.Name(), fileSuffix)
		if hour, err := strconv.ParseInt(name, 10, 64); ok && err == nil {
			out = append(out, hour)
		}
	}
	slices.Sort(out)
	return out, nil
}

func (h *historyFile) begin(hour int64, ids map[subject]uint64) error {
	f, err := os.OpenFile(h.path(hour), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o640) //nolint:gosec // the operator names the directory
	if err != nil {
		return fmt.Errorf("opening the hour's file: %w", err)
	}
	h.close()
	h.f, h.hour, h.ids = f, hour, ids
	return nil
}

func (h *historyFile) close() {
	if h.f != nil {
		_ = h.f.Close() // it was written without a buffer
		h.f = nil
	}
}

// write adds a frame, in a new file if another hour has begun.
func (h *historyFile) write(at int64, all []entry) error {
	hour := hourOf(at)
	if h.broken == hour {
		return nil
	}
	if h.f == nil || h.hour != hour {
		if err := h.begin(hour, map[subject]uint64{}); err != nil {
			h.broken = hour
			return err
		}
		if err := h.expire(hour); err != nil {
			return err
		}
	}
	h.buf = appendFrame(append(h.buf[:0], make([]byte, frameHeader)...), at, all, h.ids)
	body := h.buf[frameHeader:]
	binary.LittleEndian.PutUint32(h.buf, uint32(len(body))) //nolint:gosec // under maxFrame
	binary.LittleEndian.PutUint32(h.buf[4:], crc32.Checksum(body, castagnoli))
	if _, err := h.f.Write(h.buf); err != nil {
		h.close()
		h.broken = hour
		return fmt.Errorf("writing %s, which is left until the next hour: %w", h.path(hour), err)
	}
	return nil
}

func (h *historyFile) expire(hour int64) error {
	hours, err := h.hours()
	if err != nil {
		return err
	}
	for _, old := range hours {
		if old < hour-int64(keepHistory.Hours()) {
			if err := os.Remove(h.path(old)); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return fmt.Errorf("removing what is past: %w", err)
			}
		}
	}
	return nil
}

// replay gives every point of a file, the numbers of its subjects, and how many of its bytes are good.
func replay(path string, fn func(s subject, at int64, b []byte) error) (map[subject]uint64, int64, error) {
	data, err := os.ReadFile(path) //nolint:gosec // inside the directory that the operator names
	if err != nil {
		return nil, 0, fmt.Errorf("reading the history: %w", err)
	}
	var names []subject
	good := int64(0)
	for b := data; len(b) >= frameHeader; {
		n := binary.LittleEndian.Uint32(b)
		if n > maxFrame || int64(n) > int64(len(b)-frameHeader) {
			break
		}
		body := b[frameHeader : frameHeader+int(n)]
		if crc32.Checksum(body, castagnoli) != binary.LittleEndian.Uint32(b[4:]) {
			break
		}
		if err := readFrame(body, &names, fn); err != nil {
			break
		}
		b = b[frameHeader+int(n):]
		good += frameHeader + int64(n)
	}
	ids := make(map[subject]uint64, len(names))
	for i, s := range names {
		ids[s] = uint64(i)
	}
	return ids, good, nil
}
