package codec

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/twmb/avro"
	"github.com/twmb/franz-go/pkg/sr"
	"golang.org/x/time/rate"

	"github.com/millrace/millrace/pkg/schema"
	"github.com/millrace/millrace/pkg/telemetry"
)

// Codec decodes and encodes the records of a set of types. It is safe for concurrent use.
type Codec struct {
	cfg     Config
	tel     telemetry.Set
	metrics *metrics
	cl      *sr.Client
	entries map[string]*entry // by type name
	names   []string          // in order

	flights flights
	lookups *rate.Limiter // of schema ids that are not known yet

	mu      sync.RWMutex
	writers map[int]*writer   // schemas by id, kept for ever
	absent  map[int]time.Time // ids that the registry does not know, and until when that is believed
}

// writer is what is known of a schema id.
type writer struct {
	schema *avro.Schema
	err    error // why nothing can be read with it
}

// entry is one type. Its current version changes while running.
type entry struct {
	name    string
	subject string
	current atomic.Pointer[version]
	asked   *rate.Limiter // of refreshes that a stranger's input can cause
	refused atomic.Int64  // id of the latest version, where it cannot be used

	mu       sync.RWMutex
	programs map[programKey]*compiled
}

// version is one version of a type. It never changes.
type version struct {
	typ     *schema.Type
	id      int // in the registry; 0 where the registry has none and typ is the file's
	number  int
	encoder *Encoder // nil where id is 0
}

type programKey struct {
	id  int
	typ *schema.Type
}

type compiled struct {
	program *program
	err     error
}

const (
	// absentFor is how long an id that the registry does not know is not asked for again.
	absentFor = 10 * time.Second
	// maxAbsent bounds the ids so remembered.
	maxAbsent = 4096
	// lookupRate and lookupBurst bound how many unknown ids are asked for: garbage must not become the registry's load.
	lookupRate, lookupBurst = 100, 200
)

// New makes a codec. It does no I/O. The options go to the registry's client after those that cfg makes.
func New(cfg Config, types *schema.Set, tel telemetry.Set, opts ...sr.ClientOpt) (*Codec, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	own := []sr.ClientOpt{
		sr.URLs(cfg.URLs...), sr.UserAgent("millrace"),
		sr.HTTPClient(&http.Client{Timeout: cfg.Timeout}),
	}
	if cfg.User != "" {
		own = append(own, sr.BasicAuth(cfg.User, string(cfg.Password)))
	}
	cl, err := sr.NewClient(append(own, opts...)...)
	if err != nil {
		return nil, fmt.Errorf("making the registry's client: %w", err)
	}
	m, err := newMetrics(tel.Metrics)
	if err != nil {
		return nil, fmt.Errorf("registering metrics: %w", err)
	}
	c := &Codec{
		cfg: cfg, tel: tel.With("codec"), metrics: m, cl: cl,
		entries: map[string]*entry{},
		lookups: rate.NewLimiter(lookupRate, lookupBurst),
		writers: map[int]*writer{}, absent: map[int]time.Time{},
	}
	for _, t := range types.All() {
		e := &entry{
			name: t.Name, subject: t.Subject(), programs: map[programKey]*compiled{},
			asked: rate.NewLimiter(rate.Every(time.Second), 1),
		}
		e.current.Store(&version{typ: t})
		c.entries[t.Name] = e
		c.names = append(c.names, t.Name)
	}
	return c, nil
}

// ErrUnknownType says that a codec has no type of that name.
var ErrUnknownType = errors.New("unknown type")

// ErrNotRegistered says that a type's schema is not in the registry yet, so nothing can be encoded with it.
var ErrNotRegistered = errors.New("schema is not in the registry: run `millrace topics apply`")

func (c *Codec) entry(name string) (*entry, error) {
	if e := c.entries[name]; e != nil {
		return e, nil
	}
	return nil, fmt.Errorf("%w %q", ErrUnknownType, name)
}

// Run asks the registry for the latest versions every Refresh, until ctx ends. Without it newer versions are noticed
// only when a record comes that was written with one.
func (c *Codec) Run(ctx context.Context) error {
	tick := time.NewTicker(c.cfg.Refresh)
	defer tick.Stop()
	for down := false; ; {
		var failed error
		for _, name := range c.names {
			if err := c.refresh(ctx, c.entries[name]); err != nil {
				failed = err
			}
		}
		if ctx.Err() != nil {
			return nil // stopping is not a failure
		}
		if (failed != nil) != down {
			down = failed != nil
			if down {
				c.tel.Log.Warn("registry does not answer", "err", failed)
			} else {
				c.tel.Log.Info("registry answers again")
			}
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

// Type gives the current version of a type: the registry's latest, else the one that the codec was made with. It asks
// the registry only the first time; an error means that the registry could not be asked.
func (c *Codec) Type(ctx context.Context, name string) (*schema.Type, error) {
	e, err := c.entry(name)
	if err != nil {
		return nil, err
	}
	if e.current.Load().id == 0 {
		if err := c.refresh(ctx, e); err != nil {
			return nil, err
		}
	}
	return e.current.Load().typ, nil
}

// Encoder gives the encoder of a type's current version. It is safe for concurrent use and costs nothing but the first
// time: ask for it per record, so that a newer version is taken up.
func (c *Codec) Encoder(ctx context.Context, name string) (*Encoder, error) {
	e, err := c.entry(name)
	if err != nil {
		return nil, err
	}
	v := e.current.Load()
	if v.encoder == nil {
		if err := c.refresh(ctx, e); err != nil {
			return nil, err
		}
		if v = e.current.Load(); v.encoder == nil {
			return nil, fmt.Errorf("encoding %s: %w", name, ErrNotRegistered)
		}
	}
	return v.encoder, nil
}

// Decoder gives a decoder of a type's records, for one goroutine. Of an unknown type it gives one that fails.
func (c *Codec) Decoder(name string) *Decoder {
	return &Decoder{codec: c, name: name, entry: c.entries[name]}
}
