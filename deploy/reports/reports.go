// Package reports holds the reports that `millrace report` runs over the lake: a SELECT in a file each, whose first line
// says what it is. The variables from, to (times) and tenant (null for all) are set before it runs, and read with
// getvariable.
package reports

import (
	"embed"
	"fmt"
	"slices"
	"strings"
)

//go:embed *.sql
var files embed.FS

// Report is one of them.
type Report struct {
	Name string
	Doc  string // one line
	SQL  string
}

// All lists the reports by name.
func All() ([]Report, error) {
	entries, err := files.ReadDir(".")
	if err != nil {
		return nil, fmt.Errorf("listing reports: %w", err)
	}
	var all []Report
	for _, e := range entries {
		text, err := files.ReadFile(e.Name())
		if err != nil {
			return nil, fmt.Errorf("reading report: %w", err)
		}
		first, _, _ := strings.Cut(string(text), "\n")
		all = append(all, Report{
			Name: strings.TrimSuffix(e.Name(), ".sql"), Doc: strings.TrimPrefix(first, "-- "), SQL: string(text),
		})
	}
	return all, nil
}

// Get gives a report by its name.
func Get(name string) (Report, error) {
	all, err := All()
	if err != nil {
		return Report{}, err
	}
	i := slices.IndexFunc(all, func(r Report) bool { return r.Name == name })
	if i < 0 {
		names := make([]string, len(all))
		for i, r := range all {
			names[i] = r.Name
		}
		return Report{}, fmt.Errorf("there is no report %q; there are: %s", name, strings.Join(names, ", "))
	}
	return all[i], nil
}
