package main

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"time"

	"github.com/millrace/millrace/pkg/send"
)

// sendCmd publishes NDJSON.
type sendCmd struct {
	Type    string        `arg:"" help:"Data type: log, metric, usage, performance, or one of yours."`
	File    string        `arg:"" optional:"" help:"NDJSON file; standard input when it is - or not named."`
	Addr    string        `default:"http://127.0.0.1:9470" placeholder:"URL" env:"MILLRACE_ADDR" help:"The gateway (${default})."`
	Config  string        `short:"c" placeholder:"FILE" help:"Take the gateway's address from this configuration file instead."`
	Tenant  string        `help:"Tenant in whose name to publish."`
	Timeout time.Duration `default:"30s" help:"Of one request (${default})."`
}

// Help is the long text of --help.
func (sendCmd) Help() string {
	return `One JSON object per line. A record that is refused is explained with its line; the records around it are published. Exit
code 0 means that Kafka has acknowledged every record. A record without "id" and "time" gets both from the gateway;
give them yourself if you may have to send it again.

Example: echo '{"severity":"ERROR","body":"disk full","service":"billing"}' | millrace send log`
}

func (c *sendCmd) Run(ctx context.Context, e *env) error {
	in := e.stdin
	if c.File != "" && c.File != "-" {
		f, err := os.Open(c.File)
		if err != nil {
			return fmt.Errorf("opening the records: %w", err)
		}
		defer f.Close()
		in = io.Reader(f)
	}
	addr := c.Addr
	if c.Config != "" {
		cfg, err := loadConfig(c.Config)
		if err != nil {
			return err
		}
		addr = "http://" + cfg.HTTP.Listen
	}
	if err := send.CheckURL(addr); err != nil {
		return usageError{err}
	}
	s := send.Sender{URL: addr, Tenant: c.Tenant, HTTP: &http.Client{Timeout: c.Timeout}, Errors: e.stderr}
	res, err := s.Send(ctx, c.Type, in)
	fmt.Fprintf(e.stderr, "%d published, %d refused, %d unknown\n", res.Published, res.Refused, res.Unknown)
	switch {
	case err != nil:
		return err
	case res.Unknown > 0:
		return fmt.Errorf("of %d records nobody knows whether they were published: send them again with the same id and time", res.Unknown)
	case res.Refused > 0:
		return fmt.Errorf("%d records were refused", res.Refused)
	}
	return nil
}
