from nginx:1.25
