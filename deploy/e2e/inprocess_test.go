package e2e

import (
	"context"
	"testing"
	"time"

	"github.com/millrace/millrace/pkg/devbroker"
)

// The same suite against the embedded broker, which outlives what is done to the consumers. It needs nothing installed.
func TestEverythingAcknowledgedArrivesOnceEmbedded(t *testing.T) {
	broker, err := devbroker.Start(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		if err := broker.Close(ctx); err != nil {
			t.Error(err)
		}
	})
	w := &world{Brokers: broker.Brokers(), Registry: broker.RegistryURL(), Age: 200 * time.Millisecond, Session: 6 * time.Second}
	w.open(t)
	w.destinations = []destination{{"lake", scanLake(t, w.types, "--config", w.config)}}
	w.run(t, load{count: 8_000, rate: 1_600})
}
