// Package settings is what the worker and the watcher share: how they are told what to do, and how they tell what happens.
package settings

import (
	"fmt"
	"log/slog"
	"os"
	"regexp"
	"strconv"
	"strings"
	"time"
)

// Settings are those that the worker and the watcher share.
type Settings struct {
	Server string
	Queues []string
	Owner  string
	TTL    time.Duration
}

// name is the coordinator's rule for ids and queues, their length aside.
var name = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._:/@+-]*$`)

// Read reads them. An error names the variable.
func Read() (Settings, error) {
	host, _ := os.Hostname()
	s := Settings{
		Server: get("SAGAD_SERVER", "http://127.0.0.1:7420"),
		Queues: strings.Split(get("SAGAD_QUEUES", "default"), ","),
		Owner:  get("SAGAD_OWNER", fmt.Sprintf("go-%s-%d", host, os.Getpid())),
	}
	for _, queue := range s.Queues {
		if len(queue) > 100 || !valid(queue) {
			return s, fmt.Errorf("SAGAD_QUEUES: %q is no name of a queue", queue)
		}
	}
	if len(s.Owner) > 200 || !valid(s.Owner) {
		return s, fmt.Errorf("SAGAD_OWNER: %q is no id", s.Owner)
	}
	ttl := get("SAGAD_TTL", "30")
	seconds, err := strconv.ParseFloat(ttl, 64)
	if err != nil || !(seconds >= 0.1 && seconds <= 86_400) {
		return s, fmt.Errorf("SAGAD_TTL: %q is not a number of seconds from 0.1 to 86400", ttl)
	}
	s.TTL = time.Duration(seconds * float64(time.Second))
	return s, nil
}

func get(variable, absent string) string {
	if value := os.Getenv(variable); value != "" {
		return value
	}
	return absent
}

func valid(id string) bool { return name.MatchString(id) && !strings.Contains(id, "..") }

// Events writes each event as one JSON object a line: {"event":"claimed","task_id":…}.
func Events() *slog.Logger {
	return slog.New(slog.NewJSONHandler(os.Stdout, &slog.HandlerOptions{
		ReplaceAttr: func(groups []string, attr slog.Attr) slog.Attr {
			switch attr.Key {
			case slog.TimeKey, slog.LevelKey:
				return slog.Attr{}
			case slog.MessageKey:
				attr.Key = "event"
			}
			return attr
		},
	}))
}
