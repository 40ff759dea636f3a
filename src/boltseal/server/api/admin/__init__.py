"""The API for administrators and programs, under /api/v1/: the routes, their documents, and the OpenAPI document of both."""
