package main

import (
	"strings"
	"time"
)

type managerFile struct {
	Route     route      `yaml:"route"`
	Inhibit   []inhibit  `yaml:"inhibit_rules"`
	Receivers []receiver `yaml:"receivers"`
}

type route struct {
	Receiver string   `yaml:"receiver"`
	Matchers []string `yaml:"matchers,omitempty"`
	GroupBy  []string `yaml:"group_by,omitempty,flow"`
	Wait     string   `yaml:"group_wait,omitempty"`
	Interval string   `yaml:"group_interval,omitempty"`
	Repeat   string   `yaml:"repeat_interval,omitempty"`
	Routes   []route  `yaml:"routes,omitempty"`
}

type inhibit struct {
	Source []string `yaml:"source_matchers"`
	Target []string `yaml:"target_matchers"`
	Equal  []string `yaml:"equal,omitempty,flow"`
}

type receiver struct {
	Name string `yaml:"name"`
}

func is(names ...string) []string {
	if len(names) == 1 {
		return []string{`alertname="` + names[0] + `"`}
	}
	return []string{`alertname=~"` + strings.Join(names, "|") + `"`}
}

// alertmanager makes alertmanager.yaml.
func alertmanager(o options) (string, error) {
	burning := []string{lagBurnsFast, lagBurnsSteadily, lagBurnsSlowly}
	return marshal(o, "What is told together, and what keeps what quiet. The receivers are empty: name your own in them.", managerFile{
		Route: route{
			Receiver: ticket,
			GroupBy:  []string{"alertname", "cluster", "group", "topic"},
			Wait:     o.time(10 * time.Second),
			Interval: o.time(5 * time.Minute),
			Repeat:   o.time(4 * time.Hour),
			Routes: []route{
				// A burn rate waits until the alert that explains it has had the time to come, and to keep it quiet.
				{Receiver: page, Matchers: append(is(burning...), `severity="page"`), Wait: o.time(90 * time.Second)},
				{Receiver: ticket, Matchers: append(is(burning...), `severity="ticket"`), Wait: o.time(90 * time.Second)},
				{Receiver: page, Matchers: []string{`severity="page"`}},
				{Receiver: nobody, Matchers: []string{`severity="none"`}},
			},
		},
		Inhibit: []inhibit{
			// One alert for the destination, not one for each topic. Headroom is still told: waiting does not help there.
			{Source: is(destinationDown), Target: is(burning...), Equal: []string{"cluster", "group"}},
			{Source: is(destinationBack), Target: is(burning...), Equal: []string{"cluster", "group", "topic"}},
			// What was seen last is no news. What has happened, has: events are told.
			{Source: is(monitorBlind), Target: is(append(burning, headroomShort, headroomUnknown, needsAHand)...), Equal: []string{"cluster"}},
			// One burn rate for a flow, the fastest.
			{Source: is(lagBurnsFast), Target: is(lagBurnsSteadily, lagBurnsSlowly), Equal: []string{"cluster", "group", "topic"}},
			{Source: is(lagBurnsSteadily), Target: is(lagBurnsSlowly), Equal: []string{"cluster", "group", "topic"}},
		},
		Receivers: []receiver{{page}, {ticket}, {nobody}},
	})
}

type scrapeFile struct {
	Global struct {
		Scrape   string `yaml:"scrape_interval"`
		Evaluate string `yaml:"evaluation_interval"`
	} `yaml:"global"`
	Rules    []string `yaml:"rule_files"`
	Alerting struct {
		Managers []targets `yaml:"alertmanagers"`
	} `yaml:"alerting"`
	Scrape []job `yaml:"scrape_configs"`
}

type targets struct {
	Static []static `yaml:"static_configs"`
}

type static struct {
	Targets []string `yaml:"targets,flow"`
}

type job struct {
	Name    string `yaml:"job_name"`
	targets `yaml:",inline"`
}

// scraping makes prometheus.yaml.
func scraping(o options) (string, error) {
	var f scrapeFile
	f.Global.Scrape, f.Global.Evaluate = o.time(often), o.time(often)
	f.Rules = []string{"rules.yaml"}
	f.Alerting.Managers = []targets{{[]static{{[]string{o.alertmanager}}}}}
	f.Scrape = []job{{"millrace", targets{[]static{{[]string{o.target}}}}}}
	return marshal(o, "An example: Prometheus scrapes Millrace's processes, evaluates rules.yaml and tells an Alertmanager.", f)
}
