package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"time"

	"github.com/millrace/millrace/pkg/client"
	"github.com/millrace/millrace/pkg/codec"
	"github.com/millrace/millrace/pkg/event"
	"github.com/millrace/millrace/pkg/schema"
)

// twoGateways has a client that publishes each event through one gateway, takes the answer for lost, and publishes it
// again through another. The stores have one row by id and time; the lake has a row per record of Kafka.
func twoGateways(ctx context.Context, e *env) (evidence, error) {
	if err := e.provision(ctx); err != nil {
		return evidence{}, err
	}
	if _, err := e.consume("consumers", ""); err != nil {
		return evidence{}, err
	}
	var addresses []string
	for _, name := range []string{"gateway-1", "gateway-2"} {
		p, err := e.consume(name, "", "gateway")
		if err != nil {
			return evidence{}, err
		}
		address, err := p.address(ctx)
		if err != nil {
			return evidence{}, err
		}
		if err := p.ready(ctx, time.Minute); err != nil {
			return evidence{}, err
		}
		addresses = append(addresses, address)
	}
	cdc, err := e.codec()
	if err != nil {
		return evidence{}, err
	}
	enc, err := cdc.Encoder(ctx, e.typ.Name)
	if err != nil {
		return evidence{}, err
	}
	source := e.nextSource()
	var twice int64
	for seq := range pick(e, 300, 5000) {
		now := time.Now()
		values := slices.Clone(enc.Defaults())
		body := map[string]any{
			"id": event.NewID(now), "time": now.UnixMicro(), "service": "s", "host": "h", "datacenter": "d", "tenant": "default",
			"severity": "INFO", "body": fmt.Sprintf("event %d", seq),
		}
		for name, v := range body {
			if s, ok := v.(string); ok {
				values[e.typ.Index(name)] = codec.StringValue(s)
			}
		}
		values[schema.Time] = codec.LongValue(now.UnixMicro())
		k, err := idKey([]byte(body["id"].(string))) //nolint:forcetypeassert // see above
		if err != nil {
			return evidence{}, err
		}
		text, err := json.Marshal(body)
		if err != nil {
			return evidence{}, err
		}
		for i, address := range addresses {
			n := e.ledger.intent(entry{key: k, hash: hashOf(codec.Fingerprint(e.typ, values, "")), seq: uint32(seq), source: source})
			err := post(ctx, address+"/v1/events/"+e.typ.Name, text)
			if err != nil {
				e.ledger.outcome(n, client.ErrClosed) // it may have arrived
				return evidence{}, err
			}
			e.ledger.outcome(n, nil)
			if i == 1 {
				twice++
			}
		}
	}
	if err := e.awaitCaughtUp(ctx); err != nil {
		return evidence{}, err
	}
	return evidence{
		Did:   fmt.Sprintf("published %d events twice, through two gateways", twice),
		Bites: map[string]int64{"events published twice": twice},
		Verdict: func(found map[string]*finding) (wrong []violation) {
			for where, want := range map[string]int64{"cassandra": twice, "elasticsearch": twice, "lake": 2 * twice} {
				if got := found[where].Rows; got != want {
					wrong = append(wrong, violation{Where: where, What: fmt.Sprintf("rows, want %d", want), Count: got})
				}
			}
			return wrong
		},
	}, nil
}

func post(ctx context.Context, url string, body []byte) error {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, url, bytes.NewReader(body))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/json")
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	var answer struct {
		Results []struct {
			Error string `json:"error"`
		} `json:"results"`
		Detail string `json:"detail"`
	}
	if err := json.NewDecoder(res.Body).Decode(&answer); err != nil {
		return err
	}
	if res.StatusCode != http.StatusAccepted {
		return errors.New(res.Status + ": " + answer.Detail + fmt.Sprint(answer.Results))
	}
	return nil
}
