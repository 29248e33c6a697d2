# What developers type. CI runs .ci/run, which calls none of this.

golangci   = github.com/golangci/golangci-lint/v2/cmd/golangci-lint@v2.15.0
goreleaser = github.com/goreleaser/goreleaser/v2@v2.16.0
tools      = $(addprefix ./,$(filter-out .ci/tools%,$(sort $(dir $(shell git ls-files ".ci/*.go")))))
programs   = themisd themis-cli themisdb-repl-doctor

.PHONY: test lint build bench generate release-check snapshot

test:
	go test -race ./...

lint:
	go run $(golangci) run ./... $(tools)

build:
	CGO_ENABLED=0 go build -trimpath -o bin/ $(programs:%=./cmd/%)

bench:
	go test -run '^$$' -bench . -benchmem -count 5 ./pkg/...

# The Go code of pkg/rpc/proto, then the same look at it that CI takes.
generate:
	go tool -modfile=.ci/tools/go.mod buf generate --config .ci/tools/buf.yaml --template .ci/tools/buf.gen.yaml
	.ci/run generated

release-check:
	go run $(goreleaser) check

# All archives and packages of this commit under dist/, published nowhere.
snapshot:
	go run $(goreleaser) release --snapshot --clean
