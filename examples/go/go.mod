module ktlsgate-example

go 1.19
