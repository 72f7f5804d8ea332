//go:build race

package lag

const raceDetector = true
