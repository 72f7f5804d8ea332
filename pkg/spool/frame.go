package spool

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
)

// frameHead is what lies before a payload: its length and its CRC-32C, 4 bytes each, big-endian.
const frameHead = 8

// maxFrame bounds a payload, so that a length made of garbage does not allocate.
const maxFrame = 16 << 20

var errTorn = errors.New("torn or damaged")

func castagnoli() *crc32.Table { return crc32.MakeTable(crc32.Castagnoli) }

// sum is not zero for an empty payload, so that a run of zero bytes, which a power cut leaves, is not a row of frames.
func sum(payload []byte) uint32 { return ^crc32.Checksum(payload, castagnoli()) }

// AppendFrame appends payload, framed, to dst.
func AppendFrame(dst, payload []byte) []byte {
	dst = binary.BigEndian.AppendUint32(dst, uint32(len(payload))) //nolint:gosec // payloads are far below 4 GiB
	dst = binary.BigEndian.AppendUint32(dst, sum(payload))
	return append(dst, payload...)
}

// Frames calls each with every payload of r in order, and gives the number of bytes of whole frames. Where a frame is
// torn or damaged it ends, with whole false: what comes after cannot be found.
func Frames(r io.Reader, each func(payload []byte) error) (good int64, whole bool, err error) {
	in := bufio.NewReader(r)
	var head [frameHead]byte
	for {
		switch _, err := io.ReadFull(in, head[:]); {
		case errors.Is(err, io.EOF):
			return good, true, nil
		case errors.Is(err, io.ErrUnexpectedEOF):
			return good, false, nil
		case err != nil:
			return good, false, fmt.Errorf("reading frame: %w", err)
		}
		n := binary.BigEndian.Uint32(head[:4])
		if n > maxFrame {
			return good, false, nil
		}
		payload := make([]byte, n)
		switch _, err := io.ReadFull(in, payload); {
		case errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF):
			return good, false, nil
		case err != nil:
			return good, false, fmt.Errorf("reading frame: %w", err)
		}
		if sum(payload) != binary.BigEndian.Uint32(head[4:]) {
			return good, false, nil
		}
		if err := each(payload); err != nil {
			return good, false, err
		}
		good += frameHead + int64(n)
	}
}

// readFrame reads the frame at an offset of a file that has end bytes.
func readFrame(r io.ReaderAt, at, end int64) ([]byte, error) {
	var head [frameHead]byte
	if at+frameHead > end {
		return nil, errTorn
	}
	if _, err := r.ReadAt(head[:], at); err != nil {
		return nil, fmt.Errorf("reading frame: %w", err)
	}
	n := int64(binary.BigEndian.Uint32(head[:4]))
	if n > maxFrame || at+frameHead+n > end {
		return nil, errTorn
	}
	payload := make([]byte, n)
	if _, err := r.ReadAt(payload, at+frameHead); err != nil {
		return nil, fmt.Errorf("reading frame: %w", err)
	}
	if sum(payload) != binary.BigEndian.Uint32(head[4:]) {
		return nil, errTorn
	}
	return payload, nil
}
