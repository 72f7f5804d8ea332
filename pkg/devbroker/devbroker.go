// Package devbroker is the embedded Kafka and schema registry of dev mode: kfake with its log on disk, and srfake with
// its schemas kept beside it. It is one broker without replication, for trying, developing and tests; not for
// production.
package devbroker

import (
	"bufio"
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/sr"
	"github.com/twmb/franz-go/pkg/sr/srfake"
)

// Broker is a running broker and registry. Both listen on 127.0.0.1, on ports of the system's choice that stay the same
// over restarts as long as nobody else takes them.
type Broker struct {
	cluster  *kfake.Cluster
	server   *http.Server
	listener net.Listener
	served   chan error
	lock     *os.File
}

// Start opens or makes what lies under dir. Only one process at a time can have it.
func Start(dir string) (*Broker, error) {
	if err := os.MkdirAll(dir, 0o750); err != nil {
		return nil, fmt.Errorf("making the data directory: %w", err)
	}
	lock, err := lockDir(dir)
	if err != nil {
		return nil, err
	}
	b := &Broker{lock: lock, served: make(chan error, 1)}
	if err := b.start(dir); err != nil {
		return nil, errors.Join(err, b.Close(context.Background()))
	}
	return b, nil
}

func (b *Broker) start(dir string) error {
	id, err := clusterID(filepath.Join(dir, "cluster-id"))
	if err != nil {
		return err
	}
	ports := readPorts(filepath.Join(dir, "ports.json"))
	cluster := func(port int) (*kfake.Cluster, error) {
		return kfake.NewCluster(kfake.NumBrokers(1), kfake.Ports(port), kfake.ClusterID(id), kfake.DataDir(filepath.Join(dir, "kafka")))
	}
	if b.cluster, err = cluster(ports.Kafka); err != nil && ports.Kafka != 0 {
		b.cluster, err = cluster(0) // somebody else has the port by now
	}
	if err != nil {
		return fmt.Errorf("starting the embedded broker on %s: %w", dir, err)
	}
	handler, err := registry(filepath.Join(dir, "schemas.ndjson"))
	if err != nil {
		return err
	}
	if b.listener, err = listen(ports.Registry); err != nil && ports.Registry != 0 {
		b.listener, err = listen(0)
	}
	if err != nil {
		return fmt.Errorf("starting the embedded registry: %w", err)
	}
	if err := b.writePorts(filepath.Join(dir, "ports.json")); err != nil {
		return err
	}
	b.server = &http.Server{Handler: handler, ReadHeaderTimeout: 5 * time.Second, ReadTimeout: 30 * time.Second}
	go func() { b.served <- b.server.Serve(b.listener) }()
	return nil
}

// ports are kept over restarts, so that a client outside of this process finds the broker again.
type ports struct {
	Kafka    int `json:"kafka"`
	Registry int `json:"registry"`
}

// readPorts gives 0 for what is not known: the system chooses then.
func readPorts(path string) ports {
	var p ports
	data, err := os.ReadFile(path) //nolint:gosec // inside the data directory
	if err != nil || json.Unmarshal(data, &p) != nil {
		return ports{}
	}
	return p
}

func (b *Broker) writePorts(path string) error {
	kafka, err := netip.ParseAddrPort(b.cluster.ListenAddrs()[0])
	if err != nil {
		return fmt.Errorf("reading the embedded broker's address: %w", err)
	}
	registry, err := netip.ParseAddrPort(b.listener.Addr().String())
	if err != nil {
		return fmt.Errorf("reading the embedded registry's address: %w", err)
	}
	data, err := json.Marshal(ports{Kafka: int(kafka.Port()), Registry: int(registry.Port())})
	if err != nil {
		return err
	}
	if err := os.WriteFile(path, data, 0o600); err != nil {
		return fmt.Errorf("writing the embedded servers' ports: %w", err)
	}
	return nil
}

func listen(port int) (net.Listener, error) {
	return new(net.ListenConfig).Listen(context.Background(), "tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(port)))
}

// Brokers are the addresses for Kafka clients.
func (b *Broker) Brokers() []string { return b.cluster.ListenAddrs() }

// RegistryURL is the address for registry clients.
func (b *Broker) RegistryURL() string { return "http://" + b.listener.Addr().String() }

// Close stops both and saves what they hold. What was acknowledged is on disk before, so a kill loses nothing.
func (b *Broker) Close(ctx context.Context) error {
	var errs []error
	if b.server != nil {
		if err := b.server.Shutdown(ctx); err != nil {
			errs = append(errs, fmt.Errorf("stopping the embedded registry: %w", err))
		}
		if err := <-b.served; !errors.Is(err, http.ErrServerClosed) {
			errs = append(errs, fmt.Errorf("serving the embedded registry: %w", err))
		}
	}
	if b.cluster != nil {
		b.cluster.Close()
	}
	if err := b.lock.Close(); err != nil {
		errs = append(errs, fmt.Errorf("releasing the data directory: %w", err))
	}
	return errors.Join(errs...)
}

// lockDir takes an advisory lock that the system gives back however the process ends.
func lockDir(dir string) (*os.File, error) {
	path := filepath.Join(dir, "lock")
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600) //nolint:gosec // the user names the directory
	if err != nil {
		return nil, fmt.Errorf("locking the data directory: %w", err)
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		return nil, errors.Join(fmt.Errorf("%s is in use by another process: stop it, or give another --data", dir), f.Close())
	}
	return f, nil
}

// clusterID keeps the cluster's id over restarts: the lake binds its offsets to it. kfake would save its own only when
// it is closed, which a kill does not do.
func clusterID(path string) (string, error) {
	data, err := os.ReadFile(path) //nolint:gosec // inside the data directory
	if err == nil && len(bytes.TrimSpace(data)) > 0 {
		return string(bytes.TrimSpace(data)), nil
	}
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return "", fmt.Errorf("reading the cluster id: %w", err)
	}
	id := "dev-" + rand.Text()[:18]
	if err := os.WriteFile(path, []byte(id+"\n"), 0o600); err != nil {
		return "", fmt.Errorf("writing the cluster id: %w", err)
	}
	return id, nil
}

// stored is one line of the registry's file.
type stored struct {
	Subject string    `json:"subject"`
	Version int       `json:"version"`
	ID      int       `json:"id"`
	Schema  sr.Schema `json:"schema"`
}

// keeper writes each registration to disk before it is answered: srfake forgets all at its end, and records on disk
// name schemas by id.
type keeper struct {
	reg  *srfake.Registry
	mu   sync.Mutex
	file *os.File
	kept map[string]bool // subject/version
}

func registry(path string) (http.Handler, error) {
	k := &keeper{reg: srfake.NewRegistry(), kept: map[string]bool{}}
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600) //nolint:gosec // inside the data directory
	if err != nil {
		return nil, fmt.Errorf("opening the registry's file: %w", err)
	}
	k.file = f
	if err := k.load(); err != nil {
		return nil, errors.Join(fmt.Errorf("reading %s: %w", path, err), f.Close())
	}
	k.reg.Intercept(k.register)
	return k.reg.Handler(), nil
}

func (k *keeper) load() error {
	in := bufio.NewReader(k.file)
	var end int64
	for {
		line, err := in.ReadBytes('\n')
		if errors.Is(err, io.EOF) {
			break // what stands after the last newline was never acknowledged
		}
		if err != nil {
			return err
		}
		var s stored
		if err := json.Unmarshal(line, &s); err != nil {
			return err
		}
		// Registering in the same order gives the same ids; seeding would panic on a schema that two subjects share.
		id, version, err := k.reg.RegisterSchema(s.Subject, s.Schema)
		if err != nil {
			return err
		}
		if id != s.ID || version != s.Version {
			return fmt.Errorf("%s version %d came back as id %d version %d, was id %d", s.Subject, s.Version, id, version, s.ID)
		}
		k.kept[fmt.Sprint(s.Subject, "/", s.Version)] = true
		end += int64(len(line))
	}
	if err := k.file.Truncate(end); err != nil {
		return err
	}
	_, err := k.file.Seek(end, io.SeekStart)
	return err
}

// register answers POST /subjects/{subject}/versions.
func (k *keeper) register(w http.ResponseWriter, r *http.Request) bool {
	subject, ok := strings.CutPrefix(r.URL.Path, "/subjects/")
	if !ok || r.Method != http.MethodPost || !strings.HasSuffix(subject, "/versions") {
		return false
	}
	subject = strings.TrimSuffix(subject, "/versions")
	var s sr.Schema
	if err := json.NewDecoder(http.MaxBytesReader(w, r.Body, 1<<20)).Decode(&s); err != nil {
		http.Error(w, `{"error_code":42201,"message":"invalid schema"}`, http.StatusUnprocessableEntity)
		return true
	}
	id, err := k.store(subject, s)
	w.Header().Set("Content-Type", "application/vnd.schemaregistry.v1+json")
	if err != nil {
		w.WriteHeader(http.StatusInternalServerError)
		_ = json.NewEncoder(w).Encode(map[string]any{"error_code": 50001, "message": err.Error()})
		return true
	}
	_ = json.NewEncoder(w).Encode(map[string]any{"id": id})
	return true
}

func (k *keeper) store(subject string, s sr.Schema) (int, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	id, version, err := k.reg.RegisterSchema(subject, s)
	if err != nil {
		return 0, err
	}
	key := fmt.Sprint(subject, "/", version)
	if k.kept[key] {
		return id, nil
	}
	line, err := json.Marshal(stored{Subject: subject, Version: version, ID: id, Schema: s})
	if err != nil {
		return 0, err
	}
	if _, err := k.file.Write(append(line, '\n')); err != nil {
		return 0, err
	}
	if err := k.file.Sync(); err != nil {
		return 0, err
	}
	k.kept[key] = true
	return id, nil
}
