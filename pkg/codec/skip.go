package codec

import (
	"fmt"

	"github.com/twmb/avro"
)

// maxDepth bounds recursion over a writer's own types, which may nest in themselves.
const maxDepth = 64

type skipKind uint8

const (
	skipNull skipKind = iota
	skipBool
	skipInt // int, enum
	skipLong
	skipFixed
	skipBytes
	skipString
	skipArray
	skipMap
	skipUnion
	skipRecord
)

// skipper passes over a value that the reader does not want, of any Avro type, still checking what it can.
type skipper struct {
	kind  skipKind
	size  int
	elems []*skipper // fields, branches, or the one type of items
	width int        // fewest bytes that a value takes: bounds the counts of arrays
}

// skippers compiles the types of one writer's schema.
type skippers struct{ named map[string]*skipper }

func (s *skippers) compile(n *avro.SchemaNode, depth int) (*skipper, error) {
	if depth > maxDepth {
		return nil, errDepth
	}
	switch n.Type {
	case "null":
		return &skipper{kind: skipNull}, nil
	case "boolean":
		return &skipper{kind: skipBool, width: 1}, nil
	case "int":
		return &skipper{kind: skipInt, width: 1}, nil
	case "long":
		return &skipper{kind: skipLong, width: 1}, nil
	case "float":
		return &skipper{kind: skipFixed, size: 4, width: 4}, nil
	case "double":
		return &skipper{kind: skipFixed, size: 8, width: 8}, nil
	case "bytes":
		return &skipper{kind: skipBytes, width: 1}, nil
	case "string":
		return &skipper{kind: skipString, width: 1}, nil
	case "enum":
		return s.define(n, &skipper{kind: skipInt, width: 1}), nil
	case "fixed":
		return s.define(n, &skipper{kind: skipFixed, size: n.Size, width: n.Size}), nil
	case "array":
		return s.collection(skipArray, n.Items, depth)
	case "map":
		return s.collection(skipMap, n.Values, depth)
	case "union":
		return s.union(n, depth)
	case "record", "error":
		return s.record(n, depth)
	}
	if k, ok := s.named[n.Type]; ok {
		return k, nil
	}
	return nil, fmt.Errorf("type %q is not defined", n.Type)
}

func (s *skippers) define(n *avro.SchemaNode, k *skipper) *skipper {
	name := n.Name
	if n.Namespace != "" {
		name = n.Namespace + "." + n.Name
	}
	s.named[name] = k
	return k
}

func (s *skippers) collection(kind skipKind, of *avro.SchemaNode, depth int) (*skipper, error) {
	elem, err := s.compile(of, depth+1)
	if err != nil {
		return nil, err
	}
	return &skipper{kind: kind, width: 1, elems: []*skipper{elem}}, nil
}

func (s *skippers) union(n *avro.SchemaNode, depth int) (*skipper, error) {
	k := &skipper{kind: skipUnion, width: 1}
	for i := range n.Branches {
		elem, err := s.compile(&n.Branches[i], depth+1)
		if err != nil {
			return nil, err
		}
		k.elems = append(k.elems, elem)
	}
	return k, nil
}

// record defines the name before the fields, which may refer to it. While they are compiled its width is unknown and
// taken as 1: a type that contains itself does so through a union, an array or a map, which take a byte.
func (s *skippers) record(n *avro.SchemaNode, depth int) (*skipper, error) {
	k := s.define(n, &skipper{kind: skipRecord, width: 1})
	width := 0
	for i := range n.Fields {
		elem, err := s.compile(&n.Fields[i].Type, depth+1)
		if err != nil {
			return nil, err
		}
		k.elems = append(k.elems, elem)
		width += elem.width
	}
	k.width = width
	return k, nil
}

// skip gives the position after the value at b[pos:].
func (k *skipper) skip(b []byte, pos, depth int) (int, error) {
	if depth > maxDepth {
		return 0, errDepth
	}
	switch k.kind {
	case skipNull:
		return pos, nil
	case skipBool:
		_, pos, err := boolean(b, pos)
		return pos, err
	case skipInt, skipLong:
		n, pos := long(b, pos)
		switch {
		case pos < 0:
			return 0, failed(pos)
		case k.kind == skipInt && n != int64(int32(n)): //nolint:gosec // the range is what is tested
			return 0, errInt
		}
		return pos, nil
	case skipFixed:
		if len(b)-pos < k.size {
			return 0, errTruncated
		}
		return pos + k.size, nil
	case skipBytes:
		_, pos, err := span(b, pos)
		return pos, err
	case skipString:
		_, pos, err := text(b, pos)
		return pos, err
	case skipArray, skipMap:
		return k.skipBlocks(b, pos, depth)
	case skipUnion:
		n, pos := long(b, pos)
		if pos < 0 {
			return 0, failed(pos)
		}
		if n < 0 || n >= int64(len(k.elems)) {
			return 0, errBranch
		}
		return k.elems[n].skip(b, pos, depth+1)
	default:
		var err error
		for _, f := range k.elems {
			if pos, err = f.skip(b, pos, depth+1); err != nil {
				return 0, err
			}
		}
		return pos, nil
	}
}

func (k *skipper) skipBlocks(b []byte, pos, depth int) (int, error) {
	least := int64(k.elems[0].width)
	if k.kind == skipMap {
		least++
	}
	for {
		count, blockEnd, p, err := block(b, pos, least)
		if err != nil {
			return 0, err
		}
		pos = p
		if count == 0 {
			return pos, nil
		}
		if least == 0 {
			count = 0 // entries without bytes, however many
		}
		for range count {
			if k.kind == skipMap {
				if _, pos, err = text(b, pos); err != nil {
					return 0, err
				}
			}
			if pos, err = k.elems[0].skip(b, pos, depth+1); err != nil {
				return 0, err
			}
		}
		if blockEnd >= 0 && pos != blockEnd {
			return 0, errMapSize
		}
	}
}

func boolean(b []byte, pos int) (bool, int, error) {
	if pos >= len(b) {
		return false, 0, errTruncated
	}
	if b[pos] > 1 {
		return false, 0, errBool
	}
	return b[pos] == 1, pos + 1, nil
}
