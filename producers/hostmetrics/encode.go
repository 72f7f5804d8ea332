package hostmetrics

import (
	"encoding/json"

	"github.com/millrace/millrace/pkg/event"
)

// record is a record of type metric as JSON. Times are microseconds since 1970.
type record struct {
	ID         string            `json:"id"`
	Time       int64             `json:"time"`
	Service    string            `json:"service"`
	Host       string            `json:"host"`
	Datacenter string            `json:"datacenter"`
	Tenant     string            `json:"tenant"`
	Name       string            `json:"name"`
	Value      float64           `json:"value"`
	Unit       string            `json:"unit"`
	Kind       kind              `json:"kind"`
	StartTime  *int64            `json:"start_time,omitempty"`
	Attributes map[string]string `json:"attributes,omitempty"`
}

// encode fixes the id and time of each point.
func (a *Agent) encode(b *batch) [][]byte {
	out := make([][]byte, 0, len(b.points))
	var boot *int64
	if !b.boot.IsZero() {
		us := b.boot.UnixMicro()
		boot = &us
	}
	for _, p := range b.points {
		r := record{
			ID: event.NewID(b.now), Time: b.now.UnixMicro(),
			Service: a.cfg.Service, Host: a.host, Datacenter: a.cfg.Datacenter, Tenant: a.cfg.Tenant,
			Name: p.name, Value: p.value, Unit: p.unit, Kind: p.kind,
		}
		if p.kind == counter {
			r.StartTime = boot
		}
		for i := 0; i+1 < len(p.attrs); i += 2 {
			if r.Attributes == nil {
				r.Attributes = make(map[string]string, len(p.attrs)/2)
			}
			r.Attributes[p.attrs[i]] = p.attrs[i+1]
		}
		j, err := json.Marshal(r)
		if err != nil {
			a.log.Error("encoding a metric fails", "name", p.name, "err", err) // only a float that is no number could
			continue
		}
		out = append(out, j)
	}
	return out
}
