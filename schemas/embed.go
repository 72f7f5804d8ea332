// Package schemas holds the built-in data types, one annotated Avro schema each.
package schemas

import "embed"

// Files are the schemas: <type>.avsc.
//
//go:embed *.avsc
var Files embed.FS
