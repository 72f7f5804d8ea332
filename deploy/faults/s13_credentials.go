package main

import (
	"context"
	"fmt"
	"time"

	"github.com/millrace/millrace/pkg/servertest/esproxy"
)

// credentialsRefused has Elasticsearch answer 401 and then 403 to everything, as when a password has expired. That is an
// outage: no record is to blame.
func credentialsRefused(ctx context.Context, e *env) (evidence, error) {
	e.destinations = []string{"elasticsearch"}
	proxy, err := e.elasticsearchProxy()
	if err != nil {
		return evidence{}, err
	}
	p, w, err := e.flow(ctx, load{sources: 2, rate: pick(e, 500.0, 2000)}, pick(e, int64(500), 10_000))
	if err != nil {
		return evidence{}, err
	}
	for _, status := range []int{401, 403} {
		if err := proxy.Set(esproxy.Faults{Status: status}); err != nil {
			return evidence{}, err
		}
		if err := until(ctx, time.Minute, fmt.Sprintf("answers of %d", status), func(context.Context) error {
			if n := proxy.Counts().Status[status]; n < pick(e, int64(3), 20) {
				return fmt.Errorf("there are %d", n)
			}
			return e.health()
		}); err != nil {
			return evidence{}, err
		}
		if err := w.awaitAcked(ctx, pick(e, int64(500), 5000), time.Minute); err != nil {
			return evidence{}, err
		}
	}
	failures, err := p.metric(ctx, "millrace_stream_retries_total", `class="outage"`)
	if err != nil {
		return evidence{}, err
	}
	if err := e.awaitCause(ctx); err != nil {
		return evidence{}, err
	}
	if err := proxy.Set(esproxy.Faults{}); err != nil {
		return evidence{}, err
	}
	c := proxy.Counts()
	return evidence{
		Did: fmt.Sprintf("%d answers of 401, %d of 403, %.0f attempts failed", c.Status[401], c.Status[403], failures),
		Bites: map[string]int64{
			"answers of 401": c.Status[401], "answers of 403": c.Status[403], "attempts that failed": int64(failures),
		},
	}, nil
}
