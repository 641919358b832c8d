package config

import (
	"reflect"
	"slices"
)

// ChangedOutsidePools names the top-level fields that other has differently and that take effect at the next start only:
// all but the pools, their reservations, and whose annotations are read. In the order of the type.
func (c *Config) ChangedOutsidePools(other *Config) []string {
	live := []string{"pools", "reservations", "readForeignAnnotations"}
	var changed []string
	mine, theirs := reflect.ValueOf(*c), reflect.ValueOf(*other)
	for i := range mine.NumField() {
		name := mine.Type().Field(i).Tag.Get("yaml")
		if !slices.Contains(live, name) && !reflect.DeepEqual(mine.Field(i).Interface(), theirs.Field(i).Interface()) {
			changed = append(changed, name)
		}
	}
	return changed
}
