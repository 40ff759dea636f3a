# syntax=docker/dockerfile:1
FROM \
  nginx:1.25
	COPY --from=redis:7.2 a b