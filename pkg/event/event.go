// Package event makes event ids and fingerprints of whole records.
package event
